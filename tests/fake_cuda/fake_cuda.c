/* A stand-in for libcuda.so.1 in which a kernel takes the time that its blocks and trips ask for.
 *
 * It has the calls of the driver API that a load makes, and refuses what the real one refuses. The process that
 * loads it controls it by its environment:
 *   FAKE_CUDA_FAIL        "cuMemAlloc_v2=2": let a call fail, with a code
 *   FAKE_CUDA_CAPABILITY  of the GPU; 90 is 9.0
 *   FAKE_CUDA_FREE_MIB    memory of the GPU that is free
 *   FAKE_CUDA_SLOW        a file: while it is there, kernels take four times as long */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_PTX = 218, INVALID_CONTEXT = 201, CONTEXT_ACTIVE = 708, INVALID_HANDLE = 400, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700 };
enum { MULTIPROCESSORS = 4, MAX_THREADS = 256 /* of the kernels: .maxntid */, BLOCKS = 8, TRIP_NS = 100 };
enum { BLOCKING_SYNC = 4, ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };

typedef struct { uint64_t address; size_t bytes; } Block;
typedef struct { char name[32]; } Function;

static const struct { int code; const char *name; } errors[] = {
  {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
  {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
  {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
  {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
  {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"}, {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
  {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
};
static int initialised, retained, current, flags, broken; /* broken: after an illegal address all calls fail */
static char *module_text;
static Function function;
static Block blocks[BLOCKS];
static int64_t queue_ns; /* when all that was launched has run */

static long long setting(const char *name, long long without) {
  const char *text = getenv(name);
  return text ? atoll(text) : without;
}
static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}
static int enter(const char *call) {
  const char *fail = getenv("FAKE_CUDA_FAIL");
  size_t length = strlen(call);
  if (fail && !strncmp(fail, call, length) && fail[length] == '=') return atoi(fail + length + 1);
  if (!initialised && strcmp(call, "cuInit")) return NOT_INITIALIZED;
  return broken ? ILLEGAL_ADDRESS : SUCCESS;
}
static int enter_context(const char *call) {
  int code = enter(call);
  return code ? code : current ? SUCCESS : INVALID_CONTEXT;
}
#define ENTER do { int code = enter(__func__); if (code) return code; } while (0)
#define ENTER_CONTEXT do { int code = enter_context(__func__); if (code) return code; } while (0)

static Block *holding(uint64_t address, size_t bytes) {
  for (Block *b = blocks; b < blocks + BLOCKS; b++)
    if (b->bytes && address >= b->address && address + bytes <= b->address + b->bytes) return b;
  return 0;
}

/* ---- the library ---- */
int cuInit(unsigned none) { ENTER; initialised = 1; return none ? INVALID_VALUE : SUCCESS; }
int cuGetErrorName(int code, const char **name) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) { *name = errors[i].name; return SUCCESS; }
  *name = 0;
  return INVALID_VALUE;
}
int cuDeviceGet(int *device, int ordinal) { ENTER; *device = ordinal; return ordinal ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER;
  if (device) return INVALID_DEVICE;
  int capability = (int)setting("FAKE_CUDA_CAPABILITY", 90);
  switch (attribute) {
    case 16: *value = MULTIPROCESSORS; return SUCCESS;
    case 75: *value = capability / 10; return SUCCESS;
    case 76: *value = capability % 10; return SUCCESS;
    default: return INVALID_VALUE;
  }
}
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned set) {
  ENTER;
  if (device) return INVALID_DEVICE;
  if (retained) return CONTEXT_ACTIVE;
  flags = (int)set;
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
  ENTER;
  if (device) return INVALID_DEVICE;
  retained++;
  *context = &retained;
  return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER;
  if (device) return INVALID_DEVICE;
  if (!retained) return INVALID_CONTEXT;
  retained--;
  current = 0;
  for (Block *b = blocks; b < blocks + BLOCKS; b++)
    if (b->bytes) fprintf(stderr, "fake: %zu bytes were not freed\n", b->bytes);
  return SUCCESS;
}
int cuCtxSetCurrent(void *context) {
  ENTER;
  if (context != &retained || !retained) return INVALID_CONTEXT;
  current = 1;
  return SUCCESS;
}
int cuModuleLoadDataEx(void **module, const char *image, unsigned count, const int *options, void **values) {
  int code = enter_context(__func__);
  if (!code && !strstr(image, ".version")) code = INVALID_PTX;
  if (code == INVALID_PTX) {
    char *log = 0;
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
      if (options[i] == ERROR_LOG) log = values[i];
      if (options[i] == ERROR_LOG_BYTES) bytes = (size_t)values[i];
    }
    if (log) snprintf(log, bytes, "ptxas fatal :\nnot what the fake reads\n");
  }
  if (code) return code;
  free(module_text);
  module_text = strdup(image); /* the driver keeps none of the caller's memory */
  *module = module_text;
  return SUCCESS;
}
int cuModuleGetFunction(void **found, void *module, const char *name) {
  ENTER_CONTEXT;
  if (!module || module != module_text) return INVALID_HANDLE;
  char entry[64];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  if (!strstr(module_text, entry)) return NOT_FOUND;
  snprintf(function.name, sizeof function.name, "%s", name);
  *found = &function;
  return SUCCESS;
}
static size_t free_bytes(void) {
  size_t held = 0, all = (size_t)setting("FAKE_CUDA_FREE_MIB", 80 << 10) << 20;
  for (Block *b = blocks; b < blocks + BLOCKS; b++) held += b->bytes;
  return all - held;
}
int cuMemGetInfo_v2(size_t *unused, size_t *total) {
  ENTER_CONTEXT;
  *unused = free_bytes();
  *total = 80UL << 30;
  return SUCCESS;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  ENTER_CONTEXT;
  if (!bytes) return INVALID_VALUE;
  if (bytes > free_bytes()) return OUT_OF_MEMORY;
  for (Block *b = blocks; b < blocks + BLOCKS; b++)
    if (!b->bytes) {
      *b = (Block){(uint64_t)(b - blocks + 1) << 40, bytes};
      *address = b->address;
      return SUCCESS;
    }
  return OUT_OF_MEMORY;
}
int cuMemsetD32_v2(uint64_t address, unsigned word, size_t words) {
  (void)word;
  ENTER_CONTEXT;
  return address % 4 || !holding(address, 4 * words) ? INVALID_VALUE : SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
  ENTER_CONTEXT;
  Block *block = holding(address, 1);
  if (!block || block->address != address) return INVALID_VALUE;
  *block = (Block){0, 0};
  return SUCCESS;
}
static size_t reach(const Function *kernel, unsigned grid, size_t units) { /* bytes of memory, as loads.ptx says */
  if (!strcmp(kernel->name, "copy")) return units * 32;
  if (!strcmp(kernel->name, "decode")) return units * (2048 + 4);
  return (size_t)grid * MAX_THREADS * 128;
}
int cuLaunchKernel(Function *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void *stream, void **parameters, void **extra) {
  ENTER_CONTEXT;
  if (kernel != &function || stream) return INVALID_HANDLE;
  if (!x || y != 1 || z != 1 || !threads || threads > MAX_THREADS || threads_y != 1 || threads_z != 1 || shared ||
      !parameters || extra)
    return INVALID_VALUE;
  uint64_t memory = *(uint64_t *)parameters[0];
  uint32_t mask = *(uint32_t *)parameters[1], trips = *(uint32_t *)parameters[3];
  if (!holding(memory, reach(kernel, x, mask + 1UL))) { broken = 1; return SUCCESS; } /* who waits is told */
  const char *slow = getenv("FAKE_CUDA_SLOW");
  int64_t took_ns = (int64_t)x * trips * TRIP_NS * (slow && !access(slow, F_OK) ? 4 : 1), now = now_ns();
  queue_ns = (queue_ns > now ? queue_ns : now) + took_ns;
  return SUCCESS;
}
int cuCtxSynchronize(void) {
  ENTER_CONTEXT;
  struct timespec end = {queue_ns / 1000000000, queue_ns % 1000000000};
  if (flags & BLOCKING_SYNC)
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, 0)) {}
  else
    while (now_ns() < queue_ns) {}
  return SUCCESS;
}
