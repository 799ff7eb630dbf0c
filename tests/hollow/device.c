/* The device of the hollow CANN: its name and version, and memory that is the host's.
 *
 * Settings from the environment, each after FAKE_CANN_:
 *   DEVICES (1)        how many devices there are
 *   SOC (Ascend910B3)  what they are called
 *   VERSION (9.0.0)    the CANN version that is reported
 *   MEM_GIB (64)       memory of a device; more cannot be allocated
 *
 * Compiled against the acl headers inside the torch_npu package, so that each prototype is checked.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"
#include "acl/acl_rt.h"
#include "cann.h"

enum { MAX_DEVICES = 64, CUBE_CORES = 20, VECTOR_CORES = 40, L2_BYTES = 192 << 20, HEADER = 512, MAX_RANGES = 4096 };

const char *setting(const char *name, const char *otherwise) {
    char key[64];
    snprintf(key, sizeof key, "FAKE_CANN_%s", name);
    const char *value = getenv(key);
    return value && *value ? value : otherwise;
}

/* ---- which device, which version ---- */

static __thread int32_t current = -1;
static char contexts[MAX_DEVICES];

aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = (uint32_t)atoi(setting("DEVICES", "1"));
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
    uint32_t count;
    aclrtGetDeviceCount(&count);
    if (device < 0 || device >= (int32_t)count) return ACL_ERROR_RT_PARAM_INVALID;
    current = device;
    return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t *device) {
    *device = current;
    return current < 0 ? ACL_ERROR_RT_CONTEXT_NULL : ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (current < 0) return ACL_ERROR_RT_CONTEXT_NULL;
    *context = contexts + current;
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    current = (int32_t)((char *)context - contexts);
    return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
    if (flags) *flags = 0;
    *active = 1;
    return ACL_SUCCESS;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user, int32_t *const logical) {
    *logical = user;
    return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t one, int32_t other) {
    *can = 1;
    return ACL_SUCCESS;
}

const char *aclrtGetSocName(void) { return setting("SOC", "Ascend910B3"); }

const char *aclGetRecentErrMsg(void) { return "hollow CANN: there is no device behind this process"; }

aclError aclsysGetVersionStr(char *package, char *version) {
    strcpy(version, setting("VERSION", "9.0.0"));
    return ACL_SUCCESS;
}

aclError aclsysGetCANNVersion(aclCANNPackageName package, aclCANNPackageVersion *version) {
    memset(version, 0, sizeof *version);
    snprintf(version->version, sizeof version->version, "%s", setting("VERSION", "9.0.0"));
    return ACL_SUCCESS;
}

size_t aclGetCompileoptSize(aclCompileOpt option) { return sizeof "disable"; }

aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t length) {
    snprintf(value, length, "disable");
    return ACL_SUCCESS;
}

static int64_t device_bytes(void) { return (int64_t)(atof(setting("MEM_GIB", "64")) * (1ull << 30)); }

aclError aclrtGetDeviceInfo(uint32_t device, aclrtDevAttr asked, int64_t *value) {
    switch ((int)asked) {
        case ACL_DEV_ATTR_VECTOR_CORE_NUM: *value = VECTOR_CORES; break;
        case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: *value = device_bytes(); break;
        case ACL_DEV_ATTR_L2_CACHE_SIZE: *value = L2_BYTES; break;
        default: *value = CUBE_CORES;
    }
    return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo asked, int64_t *value) {
    *value = asked == ACL_DEVICE_INFO_VECTOR_CORE_NUM ? VECTOR_CORES : asked == ACL_DEVICE_INFO_L2_SIZE ? L2_BYTES : CUBE_CORES;
    return ACL_SUCCESS;
}

aclError aclrtDeviceGetUuid(int32_t device, aclrtUuid *uuid) {
    memset(uuid, 0, sizeof *uuid);
    uuid->bytes[sizeof uuid->bytes - 1] = (char)device;
    return ACL_SUCCESS;
}

/* ---- memory: a block's size stands in front of it, so that what is used can be told ---- */

static int64_t used;

static bool taken(int64_t bytes) {
    if (__atomic_add_fetch(&used, bytes, __ATOMIC_SEQ_CST) <= device_bytes()) return true;
    __atomic_sub_fetch(&used, bytes, __ATOMIC_SEQ_CST);
    return false;
}

static void given_back(int64_t bytes) { __atomic_sub_fetch(&used, bytes, __ATOMIC_SEQ_CST); }

static aclError host_block(void **block, size_t bytes) {
    return posix_memalign(block, HEADER, bytes + 64) ? ACL_ERROR_RT_MEMORY_ALLOCATION : ACL_SUCCESS;
}

/* ---- where device memory lies, so that a tensor of the host's can be told from one of the device's ---- */

static struct { char *first, *end; } ranges[MAX_RANGES];
static size_t ranges_begun;
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

static void range_changed(const char *old_first, char *first, size_t bytes) {
    pthread_mutex_lock(&ranges_lock);
    for (size_t i = 0; i < MAX_RANGES; i++)
        if (ranges[i].first == old_first) {
            ranges[i].first = first;
            ranges[i].end = first ? first + bytes : NULL;
            if (i >= ranges_begun) ranges_begun = i + 1;
            break;
        }
    pthread_mutex_unlock(&ranges_lock);
}

bool on_device(const void *address) {
    bool found = false;
    pthread_mutex_lock(&ranges_lock);
    for (size_t i = 0; i < ranges_begun && !found; i++)
        found = ranges[i].first <= (const char *)address && (const char *)address < ranges[i].end;
    pthread_mutex_unlock(&ranges_lock);
    return found;
}

aclError aclrtMalloc(void **block, size_t bytes, aclrtMemMallocPolicy policy) {
    void *whole;
    if (!taken((int64_t)bytes)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    if (host_block(&whole, bytes + HEADER) != ACL_SUCCESS) {
        given_back((int64_t)bytes);
        return ACL_ERROR_RT_MEMORY_ALLOCATION;
    }
    *(int64_t *)whole = (int64_t)bytes;
    *block = (char *)whole + HEADER;
    range_changed(NULL, *block, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMallocAlign32(void **block, size_t bytes, aclrtMemMallocPolicy policy) {
    return aclrtMalloc(block, bytes, policy);
}

aclError aclrtFree(void *block) {
    if (!block) return ACL_SUCCESS;
    void *whole = (char *)block - HEADER;
    range_changed(block, NULL, 0);
    given_back(*(int64_t *)whole);
    free(whole);
    return ACL_SUCCESS;
}

/* Expandable segments: an address range is reserved first and filled piece by piece. */
aclError aclrtReserveMemAddress(void **range, size_t bytes, size_t alignment, void *wanted, uint64_t flags) {
    *range = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*range == MAP_FAILED) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    range_changed(NULL, *range, bytes);
    return ACL_SUCCESS;
}

aclError aclrtMallocPhysical(aclrtDrvMemHandle *piece, size_t bytes, const aclrtPhysicalMemProp *properties, uint64_t flags) {
    if (!taken((int64_t)bytes)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
    int64_t *size = malloc(sizeof *size);
    *size = (int64_t)bytes;
    *piece = (aclrtDrvMemHandle)size;
    return ACL_SUCCESS;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle piece) {
    given_back(*(int64_t *)piece);
    free(piece);
    return ACL_SUCCESS;
}

aclError aclrtMallocHost(void **block, size_t bytes) { return host_block(block, bytes); }

aclError aclrtMallocHostWithCfg(void **block, uint64_t bytes, aclrtMallocConfig *config) { return host_block(block, bytes); }

aclError aclrtFreeHost(void *block) {
    free(block);
    return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr kind, size_t *unused, size_t *total) {
    *total = (size_t)device_bytes();
    *unused = *total - (size_t)used;
    return ACL_SUCCESS;
}
