# Reached from every generated stub with its name in %rax: hands the argument registers, the float registers and
# the stack arguments of the caller to stub_called, and returns what that returns. x86-64, System V.
    .text
    .globl stub_entry
    .hidden stub_entry
    .hidden stub_called
    .type stub_entry, @function
stub_entry:
    push %rbp
    mov %rsp, %rbp
    sub $112, %rsp
    mov %rdi, 0(%rsp)
    mov %rsi, 8(%rsp)
    mov %rdx, 16(%rsp)
    mov %rcx, 24(%rsp)
    mov %r8, 32(%rsp)
    mov %r9, 40(%rsp)
    movsd %xmm0, 48(%rsp)
    movsd %xmm1, 56(%rsp)
    movsd %xmm2, 64(%rsp)
    movsd %xmm3, 72(%rsp)
    movsd %xmm4, 80(%rsp)
    movsd %xmm5, 88(%rsp)
    movsd %xmm6, 96(%rsp)
    movsd %xmm7, 104(%rsp)
    mov %rax, %rdi
    mov %rsp, %rsi
    lea 48(%rsp), %rdx
    lea 16(%rbp), %rcx
    call stub_called
    leave
    ret
    .section .note.GNU-stack, "", %progbits
