/* The operators of the hollow CANN: each call is logged with what it was given, none computes anything.
 *
 * Every CANN function without a body in device.c or here is a generated stub that ends in `stub_called`. Settings
 * from the environment, each after FAKE_CANN_:
 *   LOG      a file that gets one line an operator call, from all processes
 *   LOG_ALL  with any value: other stubs are logged too, as "# name"
 *   FAIL     names after commas; these stubs, and ATB operators of that name, answer error 161002 (bad parameter);
 *            name@20 does so from its 20th call in a process on
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acl/acl.h"
#include "acl/acl_op.h"
#include "cann.h"

enum { IN_REGISTERS = 6, MOST_ARGUMENTS = 128, HANDLES = 1 << 16, TEXT = 64, FAILING = 16 };

/* ---- handles: all in one array, so that an argument that is one can be told from a number ---- */

typedef enum { TENSOR, SCALAR, WHOLE_NUMBERS, NUMBERS, HANDLE_LIST } Kind;
typedef struct Handle {
    Kind kind;
    bool live, on_host;
    int32_t dtype;
    uint64_t count;
    union {
        int64_t *whole;
        double *numbers;
        struct Handle **items;
    };
    struct Handle *next_free;
} Handle;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Handle handles[HANDLES], *free_handle;
static size_t handles_begun;

static Handle *handle_of(Kind kind, int32_t dtype, uint64_t count) {
    pthread_mutex_lock(&lock);
    Handle *one = free_handle;
    if (one) free_handle = one->next_free;
    else if (handles_begun < HANDLES) one = handles + handles_begun++;
    pthread_mutex_unlock(&lock);
    if (!one) abort(); /* a leak of 65,536 handles: nothing after it could be trusted */
    *one = (Handle){.kind = kind, .live = true, .dtype = dtype, .count = count, .whole = calloc(count + 1, sizeof(int64_t))};
    return one;
}

static Handle *handle_at(uint64_t value) {
    uint64_t first = (uint64_t)handles, offset = value - first;
    if (value < first || offset >= sizeof handles || offset % sizeof(Handle)) return NULL;
    return handles[offset / sizeof(Handle)].live ? handles + offset / sizeof(Handle) : NULL;
}

static int dropped(const void *given) {
    Handle *one = handle_at((uint64_t)given);
    if (!one) return ACL_SUCCESS;
    free(one->whole);
    pthread_mutex_lock(&lock);
    one->live = false;
    one->next_free = free_handle;
    free_handle = one;
    pthread_mutex_unlock(&lock);
    return ACL_SUCCESS;
}

static int list_dropped(const Handle *list) {
    for (uint64_t i = 0; i < list->count; i++) dropped(list->items[i]);
    return dropped(list);
}

static Handle *tensor_of(const int64_t *sizes, uint64_t rank, int32_t dtype) {
    Handle *one = handle_of(TENSOR, dtype, rank);
    if (rank) memcpy(one->whole, sizes, rank * sizeof *sizes);
    return one;
}

Handle *aclCreateTensor(const int64_t *sizes, uint64_t rank, aclDataType dtype, const int64_t *strides, int64_t offset,
                        aclFormat format, const int64_t *storage_sizes, uint64_t storage_rank, void *data) {
    Handle *one = tensor_of(sizes, rank, dtype);
    one->on_host = data && !on_device(data);
    return one;
}

Handle *aclCreateScalar(void *value, aclDataType dtype) { return handle_of(SCALAR, dtype, 0); }

Handle *aclCreateIntArray(const int64_t *values, uint64_t count) {
    Handle *one = handle_of(WHOLE_NUMBERS, 0, count);
    if (count) memcpy(one->whole, values, count * sizeof *values);
    return one;
}

Handle *aclCreateFloatArray(const float *values, uint64_t count) {
    Handle *one = handle_of(NUMBERS, 0, count);
    for (uint64_t i = 0; i < count; i++) one->numbers[i] = values[i];
    return one;
}

Handle *aclCreateBoolArray(const bool *values, uint64_t count) {
    Handle *one = handle_of(WHOLE_NUMBERS, 0, count);
    for (uint64_t i = 0; i < count; i++) one->whole[i] = values[i];
    return one;
}

Handle *aclCreateTensorList(Handle *const *items, uint64_t count) {
    Handle *one = handle_of(HANDLE_LIST, 0, count);
    if (count) memcpy(one->items, items, count * sizeof *items);
    return one;
}

Handle *aclCreateScalarList(Handle *const *items, uint64_t count) { return aclCreateTensorList(items, count); }

int aclDestroyTensor(const Handle *one) { return dropped(one); }
int aclDestroyScalar(const Handle *one) { return dropped(one); }
int aclDestroyIntArray(const Handle *one) { return dropped(one); }
int aclDestroyFloatArray(const Handle *one) { return dropped(one); }
int aclDestroyBoolArray(const Handle *one) { return dropped(one); }
int aclDestroyTensorList(const Handle *list) { return list_dropped(list); }
int aclDestroyScalarList(const Handle *list) { return list_dropped(list); }

/* The older operators describe a tensor by itself and its memory by a buffer. */
aclTensorDesc *aclCreateTensorDesc(aclDataType dtype, int rank, const int64_t *sizes, aclFormat format) {
    return (aclTensorDesc *)tensor_of(sizes, (uint64_t)rank, dtype);
}

void aclDestroyTensorDesc(const aclTensorDesc *one) { dropped(one); }

aclDataType aclGetTensorDescType(const aclTensorDesc *one) { return ((const Handle *)one)->dtype; }

aclFormat aclGetTensorDescFormat(const aclTensorDesc *one) { return ACL_FORMAT_ND; }

size_t aclGetTensorDescNumDims(const aclTensorDesc *one) { return ((const Handle *)one)->count; }

aclError aclGetTensorDescDimV2(const aclTensorDesc *one, size_t axis, int64_t *size) {
    *size = ((const Handle *)one)->whole[axis];
    return ACL_SUCCESS;
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t bytes) { return (aclDataBuffer *)handle_of(SCALAR, 0, 0); }

aclError aclDestroyDataBuffer(const aclDataBuffer *one) { return dropped(one); }

aclopAttr *aclopCreateAttr(void) { return (aclopAttr *)handle_of(SCALAR, 0, 0); }

void aclopDestroyAttr(const aclopAttr *one) { dropped(one); }

/* ---- the log: a line is put together in memory and written at once, so that processes do not mix theirs ---- */

void line_begun(Line *line) {
    *line = (Line){0};
    if (*setting("LOG", "")) line->text = open_memstream(&line->bytes, &line->length);
}

void line_ended(Line *line) {
    if (!line->text) return;
    fputc('\n', line->text);
    fclose(line->text);
    int log = open(setting("LOG", ""), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (log >= 0 && write(log, line->bytes, line->length) < 0) perror("hollow CANN: the call log");
    if (log >= 0) close(log);
    free(line->bytes);
}

const char *dtype_name(int32_t dtype) {
    static const char *const names[] = {
        [ACL_FLOAT] = "f32", [ACL_FLOAT16] = "f16", [ACL_INT8] = "i8", [ACL_INT32] = "i32", [ACL_UINT8] = "u8",
        [ACL_INT16] = "i16", [ACL_UINT16] = "u16", [ACL_UINT32] = "u32", [ACL_INT64] = "i64", [ACL_UINT64] = "u64",
        [ACL_DOUBLE] = "f64", [ACL_BOOL] = "bool", [ACL_STRING] = "str", [ACL_COMPLEX64] = "c64",
        [ACL_COMPLEX128] = "c128", [ACL_BF16] = "bf16",
    };
    bool named = dtype >= 0 && dtype < (int32_t)(sizeof names / sizeof *names) && names[dtype];
    return named ? names[dtype] : "other";
}

void put_sizes(FILE *text, const int64_t *sizes, uint64_t count) {
    fputc('[', text);
    for (uint64_t i = 0; i < count; i++) fprintf(text, i ? ",%lld" : "%lld", (long long)sizes[i]);
    fputc(']', text);
}

static void put_handle(FILE *text, const Handle *one) {
    if (one->kind == SCALAR) fprintf(text, "scalar(%s)", dtype_name(one->dtype));
    if (one->kind == TENSOR) fprintf(text, "%s%s", one->on_host ? "cpu:" : "", dtype_name(one->dtype));
    if (one->kind == TENSOR || one->kind == WHOLE_NUMBERS) put_sizes(text, one->whole, one->count);
    if (one->kind != HANDLE_LIST && one->kind != NUMBERS) return;
    fputc('[', text);
    for (uint64_t i = 0; i < one->count; i++) {
        if (i) fputc(',', text);
        if (one->kind == NUMBERS) fprintf(text, "%g", one->numbers[i]);
        else put_handle(text, one->items[i]);
    }
    fputc(']', text);
}

/* Bytes at an address that may be no address: the kernel refuses to write from one that is not mapped. */
static size_t peeked(uint64_t address, char *to, size_t most) {
    static int ends[2] = {-1, -1};
    ssize_t got = -1;
    pthread_mutex_lock(&lock);
    if (ends[0] >= 0 || !pipe2(ends, O_CLOEXEC)) got = write(ends[1], (const void *)address, most);
    if (got > 0) got = read(ends[0], to, (size_t)got);
    pthread_mutex_unlock(&lock);
    return got > 0 ? (size_t)got : 0;
}

static bool is_text(uint64_t value, char *to) {
    size_t length = 0, got = value >> 16 && !(value >> 47) ? peeked(value, to, TEXT) : 0;
    while (length < got && isprint((unsigned char)to[length])) length++;
    return length && length < got && !to[length];
}

static void put_argument(FILE *text, uint64_t value) {
    char string[TEXT];
    Handle *one = handle_at(value);
    if (one) put_handle(text, one);
    else if (is_text(value, string)) fprintf(text, "\"%s\"", string);
    else fprintf(text, "%lld", (long long)value);
}

/* A float argument is in the lower half of its register, a double fills it. */
static double in_float_register(double held) {
    uint64_t bits;
    float lower;
    memcpy(&bits, &held, sizeof bits);
    memcpy(&lower, &bits, sizeof lower);
    return bits >> 32 ? held : lower;
}

bool fails(const char *name) {
    static long calls[FAILING];
    size_t length = strlen(name), place = 0;
    for (const char *at = setting("FAIL", ""); *at && place < FAILING; at += strcspn(at, ","), at += *at == ',', place++)
        if (strcspn(at, "@,") == length && !strncmp(at, name, length)) {
            long call = __atomic_add_fetch(calls + place, 1, __ATOMIC_SEQ_CST);
            return at[length] != '@' || call >= strtol(at + length + 1, NULL, 10);
        }
    return false;
}

/* ---- where every generated stub ends ---- */

static bool ends_with(const char *name, const char *end) {
    size_t whole = strlen(name), part = strlen(end);
    return whole > part && !strcmp(name + whole - part, end);
}

static bool starts_with(const char *name, const char *start) { return !strncmp(name, start, strlen(start)); }

/* A size query takes the operator's arguments and, last, two addresses of locals of its caller that hold zero. */
static void put_query(FILE *text, const char *name, const uint64_t *registers, const uint64_t *stack) {
    uint64_t here = (uint64_t)&text;
    fprintf(text, "%.*s(", (int)(strlen(name) - strlen("GetWorkspaceSize")), name);
    for (int i = 0; i < MOST_ARGUMENTS; i++) {
        uint64_t pair[2];
        for (int j = 0; j < 2; j++) pair[j] = i + j < IN_REGISTERS ? registers[i + j] : stack[i + j - IN_REGISTERS];
        bool locals = pair[0] - here < 1 << 20 && pair[1] - here < 1 << 20 && !((pair[0] | pair[1]) & 7);
        if (locals && !*(uint64_t *)pair[0] && !*(uint64_t *)pair[1]) break;
        if (i) fputs(", ", text);
        put_argument(text, pair[0]);
    }
    fputc(')', text);
}

static void put_old_operator(FILE *text, const uint64_t *registers) {
    fprintf(text, "aclop:%s(", (const char *)registers[0]);
    for (uint32_t i = 0; i < (uint32_t)registers[1]; i++) {
        if (i) fputs(", ", text);
        put_argument(text, ((const uint64_t *)registers[2])[i]);
    }
    fputc(')', text);
}

/* Which floats of a query are arguments is not known here: the first three registers are told, and may be noise. */
static void logged(const char *name, const uint64_t *registers, const double *floats, const uint64_t *stack) {
    bool query = ends_with(name, "GetWorkspaceSize"), old = starts_with(name, "aclopCompileAndExecute");
    if (!query && !old && !*setting("LOG_ALL", "")) return;
    Line line;
    line_begun(&line);
    if (line.text && query) {
        put_query(line.text, name, registers, stack);
        fputs(" floats=", line.text);
        for (int i = 0; i < 3; i++) fprintf(line.text, i ? ",%g" : "%g", in_float_register(floats[i]));
    } else if (line.text && old) put_old_operator(line.text, registers);
    else if (line.text) fprintf(line.text, "# %s", name);
    line_ended(&line);
}

long stub_called(const char *name, const uint64_t *registers, const double *floats, const uint64_t *stack) {
    static const char creates[] = "_ZN3atb15CreateOperationINS_5infer";
    bool operator = starts_with(name, "aclnn") || starts_with(name, "Atb");
    if ((operator && !ends_with(name, "GetWorkspaceSize")) || starts_with(name, "aclopCompileAndExecute")) operator_launched();
    logged(name, registers, floats, stack);
    if (fails(name)) return BAD_PARAMETER;
    if (starts_with(name, creates)) atb_created(name + strlen(creates), (const void *)registers[0], (void **)registers[1]);
    if (!strcmp(name, "_ZN3atb13CreateContextEPPNS_7ContextE")) *(const void **)registers[0] = &atb_context;
    return 0;
}
