/* The queue of the hollow CANN's device: copies, graphs, streams and events on one simulated clock.
 *
 * Setting from the environment: FAKE_CANN_OP_US (0), the device time of every operator; all streams are one queue.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "acl/acl.h"
#include "acl/acl_rt.h"
#include "cann.h"

/* ---- the clock: when everything launched so far will be done, on CLOCK_MONOTONIC ---- */

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t queue_end_ns;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static int64_t done_ns(void) {
    int64_t now = now_ns();
    return queue_end_ns > now ? queue_end_ns : now;
}

static void enqueue(int64_t operators) {
    int64_t each_ns = (int64_t)(atof(setting("OP_US", "0")) * 1e3);
    pthread_mutex_lock(&queue_lock);
    queue_end_ns = done_ns() + operators * each_ns;
    pthread_mutex_unlock(&queue_lock);
}

static void wait_until(int64_t due_ns) {
    struct timespec due = {due_ns / 1000000000ll, due_ns % 1000000000ll};
    while (due_ns > now_ns()) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

static aclError copied(void *to, size_t room, const void *from, size_t bytes) {
    if (bytes > room) return ACL_ERROR_RT_PARAM_INVALID;
    memmove(to, from, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind) {
    wait_until(done_ns());
    return copied(to, room, from, bytes);
}

aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, aclrtMemcpyKind kind, aclrtStream stream) {
    return copied(to, room, from, bytes);
}

aclError aclrtMemset(void *block, size_t room, int32_t value, size_t bytes) {
    if (bytes > room) return ACL_ERROR_RT_PARAM_INVALID;
    memset(block, value, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void *block, size_t room, int32_t value, size_t bytes, aclrtStream stream) {
    return aclrtMemset(block, room, value, bytes);
}

/* ---- graphs: a capture counts operators, a replay takes their time; there is one capture at a time ---- */

static int64_t *captured;
static aclrtStream captured_on;
static bool updating;

void operator_launched(void) {
    if (captured) ++*captured;
    else if (!updating) enqueue(1);
}

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode) {
    if (captured) return ACL_ERROR_RT_STREAM_CAPTURED;
    captured_on = stream;
    captured = calloc(1, sizeof *captured);
    return ACL_SUCCESS;
}

aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus *status, aclmdlRI *graph) {
    bool on = captured && stream == captured_on;
    *status = on ? ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE : ACL_MODEL_RI_CAPTURE_STATUS_NONE;
    if (graph) *graph = on ? (aclmdlRI)captured : NULL;
    return ACL_SUCCESS;
}

aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *graph) {
    *graph = (aclmdlRI)captured;
    captured = NULL;
    return ACL_SUCCESS;
}

aclError aclmdlRIExecuteAsync(aclmdlRI graph, aclrtStream stream) {
    enqueue(*(int64_t *)graph);
    return ACL_SUCCESS;
}

aclError aclmdlRIDestroy(aclmdlRI graph) {
    free(graph);
    return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskGrpEnd(aclrtStream stream, aclrtTaskGrp *group) {
    *group = calloc(1, sizeof(int64_t));
    return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskUpdateBegin(aclrtStream stream, aclrtTaskGrp group) {
    updating = true;
    return ACL_SUCCESS;
}

aclError aclmdlRICaptureTaskUpdateEnd(aclrtStream stream) {
    updating = false;
    return ACL_SUCCESS;
}

/* ---- streams, which are all the one queue, and events, which hold a time of it ---- */

static aclError made(void **one) {
    *one = calloc(1, sizeof(int64_t));
    return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream *stream) { return made(stream); }

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flags) { return made(stream); }

aclError aclrtDestroyStream(aclrtStream stream) {
    free(stream);
    return ACL_SUCCESS;
}

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) {
    *status = queue_end_ns > now_ns() ? ACL_STREAM_STATUS_NOT_READY : ACL_STREAM_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) {
    *id = (int32_t)((uintptr_t)stream >> 4 & 0xffff);
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
    if (captured) return ACL_ERROR_RT_STREAM_CAPTURED;
    wait_until(queue_end_ns);
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) { return aclrtSynchronizeStream(stream); }

aclError aclrtSynchronizeDevice(void) { return aclrtSynchronizeStream(NULL); }

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { return aclrtSynchronizeStream(NULL); }

aclError aclrtCreateEvent(aclrtEvent *event) { return made(event); }

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags) { return made(event); }

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags) { return made(event); }

aclError aclrtDestroyEvent(aclrtEvent event) {
    free(event);
    return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    *(int64_t *)event = done_ns();
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeEvent(aclrtEvent event) {
    wait_until(*(int64_t *)event);
    return ACL_SUCCESS;
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
    *status = *(int64_t *)event > now_ns() ? ACL_EVENT_RECORDED_STATUS_NOT_READY : ACL_EVENT_RECORDED_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
    *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
    return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *elapsed_ms, aclrtEvent from, aclrtEvent to) {
    int64_t began = *(int64_t *)from, ended = *(int64_t *)to;
    if (!began || !ended) return ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID;
    *elapsed_ms = (float)((ended - began) / 1e6);
    return ACL_SUCCESS;
}
