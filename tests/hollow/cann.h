/* What the parts of the hollow CANN share: settings, the device's queue, the call log, and failures on demand. */
#ifndef HOLLOW_CANN_H
#define HOLLOW_CANN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BAD_PARAMETER = 161002 };

#pragma GCC visibility push(hidden) /* these names are not CANN's: nobody else may find them */

/* A setting FAKE_CANN_<name> from the environment, read anew at each use so that a test can change it. */
const char *setting(const char *name, const char *otherwise);

/* Whether an address lies in the device's memory. */
bool on_device(const void *address);

/* One more operator in the device's queue: it takes FAKE_CANN_OP_US there. */
void operator_launched(void);

/* A line of the call log while it is put together; `text` is NULL where there is no log. */
typedef struct {
    FILE *text;
    char *bytes;
    size_t length;
} Line;
void line_begun(Line *line);
void line_ended(Line *line);
const char *dtype_name(int32_t dtype);
void put_sizes(FILE *text, const int64_t *sizes, uint64_t count);

/* Whether this call is one that FAKE_CANN_FAIL asks to fail. */
bool fails(const char *name);

/* An ATB operator, told by the mangled name of its parameters, and the one context of them all. */
void atb_created(const char *mangled_type, const void *parameters, void **operator);
extern const void *atb_context;

/* Where every generated stub ends, by way of entry.s: the stub's name and what its caller passed to it. */
long stub_called(const char *name, const uint64_t *registers, const double *floats, const uint64_t *stack);

#pragma GCC visibility pop

#endif
