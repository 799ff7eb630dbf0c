/* Operators of the ATB library are C++ objects: made here by hand, with tables of virtual functions in GCC's order.
 *
 * They are logged and can fail as the stubs of operators.c.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cann.h"

enum { NAME = 64 };

typedef struct {
    int32_t dtype, format;
    int64_t sizes[8];
    uint64_t rank;
    void *on_device, *on_host;
    uint64_t bytes;
} AtbTensor;
typedef struct {
    size_t capacity, count;
    AtbTensor inside[65], *outside;
} AtbTensors;
/* What the parameters of paged attention begin with. */
typedef struct {
    int32_t heads;
    float scale;
    int32_t kv_heads;
} AtbHeads;
typedef struct {
    const void *functions;
    char name[NAME];
    AtbHeads heads; /* all 0 but in paged attention */
} AtbOperator;

static long atb_nothing(void) { return 0; }

/* std::string GetName() const: an empty string whose text is inside itself. */
static void *atb_name(void **string, AtbOperator *self) {
    string[0] = string + 2;
    string[1] = string[2] = NULL;
    return string;
}

static void put_atb(FILE *text, const AtbTensors *tensors) {
    const AtbTensor *one = tensors->outside ? tensors->outside : tensors->inside;
    for (size_t i = 0; i < tensors->count; i++, one++) {
        bool there = one->on_device || one->on_host;
        fprintf(text, "%s%s%s", i ? ", " : "", one->on_host ? "cpu:" : "", there ? dtype_name(one->dtype) : "none");
        put_sizes(text, one->sizes, one->rank < 8 ? one->rank : 8);
    }
}

static long atb_setup(AtbOperator *self, const AtbTensors *in_and_out, uint64_t *workspace) {
    Line line;
    line_begun(&line);
    if (line.text) {
        fprintf(line.text, "atb::%s(", self->name);
        put_atb(line.text, in_and_out);
        fputs(") -> (", line.text);
        put_atb(line.text, in_and_out + 1);
        fputc(')', line.text);
        const AtbHeads *told = &self->heads;
        if (told->heads) fprintf(line.text, " heads=%d kv_heads=%d scale=%g", told->heads, told->kv_heads, told->scale);
    }
    line_ended(&line);
    *workspace = 0;
    return fails(self->name) ? BAD_PARAMETER : 0;
}

static long atb_execute(void) {
    operator_launched();
    return 0;
}

static const void *const atb_operator_functions[] = {
    atb_nothing, atb_nothing, atb_name, atb_nothing, atb_nothing, atb_nothing, atb_setup, atb_execute, atb_nothing, atb_nothing,
};
static const void *const atb_context_functions[] = {
    atb_nothing, atb_nothing, atb_nothing, atb_nothing, atb_nothing, atb_nothing,
    atb_nothing, atb_nothing, atb_nothing, atb_nothing, atb_nothing, atb_nothing,
};
const void *atb_context = atb_context_functions;

/* atb::CreateOperation<atb::infer::XxxParam>(param, operation): Xxx stands in the mangled name after its length. */
void atb_created(const char *mangled_type, const void *parameters, void **operator) {
    char *type;
    long length = strtol(mangled_type, &type, 10);
    AtbOperator *one = calloc(1, sizeof *one);
    one->functions = atb_operator_functions;
    snprintf(one->name, sizeof one->name, "%.*s", (int)(length - (long)strlen("Param")), type);
    if (!strcmp(one->name, "PagedAttention")) memcpy(&one->heads, parameters, sizeof one->heads);
    *operator = one;
}
