/* A stand-in for libnvidia-ml.so.1 that tests control through the fake_* functions.
 *
 * It answers the symbols that NVIDIA's Python binding resolves, with the layouts of nvml.h. Every call on a
 * device can be made to fail with any code, and the known traps of the real one can be switched on by name. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { DEVICES = 16, FAILURES = 64, PROCESSES = 256, INSTANCES = 8, LISTS = 3 };

typedef struct { uint32_t id, scope; int64_t time, latency; uint32_t type, ret; union { uint32_t ui; uint64_t ull; } v; } Field;
typedef struct { uint32_t pid; uint64_t memory; uint32_t gi, ci; } Process;                  /* 24 bytes */
typedef struct { uint32_t pid; uint64_t time; uint32_t sm, mem, enc, dec; } Sample;          /* 32 bytes */
typedef struct { uint64_t time; uint32_t pid, sm, mem, enc, dec, jpg, ofa; } SampleInfo;
typedef struct { uint32_t version, count; uint64_t last_seen; SampleInfo *samples; } SampleInfos;
typedef struct { uint32_t sms, copy, dec, enc, jpg, ofa, slices, compute_slices; uint64_t memory_mb; } Attributes;
typedef struct { char call[64]; int code; } Failure;
typedef struct {
  long long energy_mj, instant_mw, average_mw, usage_mw, sm, mem, total, used, temperature, clock, limit_mw;
  long long architecture, major, minor, energy_type, delay_us, mig, wide_v3, grow, legacy_zero, repeat, empty_success;
  long long last_seen, info_last_seen, calls, field_calls;
  long long field_code[3][2]; /* energy, instant, average; GPU and module scope */
  Failure failures[FAILURES];
  Process lists[LISTS][PROCESSES];
  int processes[LISTS], samples, instances;
  Sample sample[PROCESSES];
  int instance_id[INSTANCES], instance_slices[INSTANCES];
  char instance_name[INSTANCES][96];
  double busy_ms[INSTANCES], total_ms[INSTANCES]; /* of GPU instance n, by its number */
  long long gpm, index, file_number;
} Device;
typedef struct { double busy_ms, total_ms; } GpmSample;
typedef struct { uint32_t id; int ret; double value; const char *names[3]; } GpmMetric;
typedef struct { uint32_t version, count; GpmSample *before, *after; GpmMetric metrics[1]; } GpmRequest;

static Device devices[DEVICES];
static int device_count, loaded, initialised;
static uintptr_t session; /* a handle of an earlier session is stale */

/* ---- control ---- */
void fake_reset(int count) {
  memset(devices, 0, sizeof devices);
  device_count = count;
  loaded = count > 0;
  initialised = 0;
  session++;
  for (int i = 0; i < count; i++) {
    Device *d = &devices[i];
    d->energy_mj = 1000000 * (i + 1); d->instant_mw = 300000; d->average_mw = 290000; d->usage_mw = 290000;
    d->sm = 50; d->mem = 20; d->total = 150LL << 30; d->used = 10LL << 30; d->temperature = 60;
    d->clock = 1980; d->limit_mw = 700000; d->architecture = 9; d->major = 9; d->energy_type = 3;
    d->index = d->file_number = i;
    for (int f = 0; f < 3; f++) d->field_code[f][1] = NOT_SUPPORTED;
  }
}
static long long *slot(Device *d, const char *key) {
#define KEY(name) if (!strcmp(key, #name)) return &d->name
  KEY(energy_mj); KEY(instant_mw); KEY(average_mw); KEY(usage_mw); KEY(sm); KEY(mem); KEY(total); KEY(used);
  KEY(temperature); KEY(clock); KEY(limit_mw); KEY(architecture); KEY(major); KEY(minor); KEY(energy_type);
  KEY(delay_us); KEY(mig); KEY(gpm); KEY(index); KEY(file_number); KEY(wide_v3); KEY(grow); KEY(legacy_zero); KEY(repeat); KEY(empty_success); KEY(last_seen); KEY(info_last_seen);
  KEY(calls); KEY(field_calls);
  return 0;
}
int fake_set(int i, const char *key, long long value) {
  long long *s = slot(&devices[i], key);
  if (s) *s = value;
  return s != 0;
}
long long fake_get(int i, const char *key) { long long *s = slot(&devices[i], key); return s ? *s : -1; }
void fake_fail(int i, const char *call, int code) { /* "*" is every call; code 0 ends the failure */
  Failure *free_place = 0;
  for (Failure *f = devices[i].failures; f < devices[i].failures + FAILURES; f++) {
    if (!strcmp(f->call, call)) { f->code = code; return; }
    if (!f->call[0] && !free_place) free_place = f;
  }
  snprintf(free_place->call, sizeof free_place->call, "%s", call);
  free_place->code = code;
}
void fake_field(int i, int field, int scope, int code) { devices[i].field_code[field][scope] = code; }
void fake_driver(int is_loaded) { loaded = is_loaded; if (!is_loaded) { initialised = 0; session++; } }
void fake_process(int i, int list, uint32_t pid, uint64_t memory, uint32_t gi) {
  Device *d = &devices[i];
  d->lists[list][d->processes[list]++] = (Process){pid, memory, gi, 0xFFFFFFFF};
}
void fake_sample(int i, uint32_t pid, uint64_t time, uint32_t sm, uint32_t mem) {
  Device *d = &devices[i];
  d->sample[d->samples++] = (Sample){pid, time, sm, mem, 0, 0};
}
void fake_instance(int i, int id, int slices, const char *name) {
  Device *d = &devices[i];
  d->instance_id[d->instances] = id;
  d->instance_slices[d->instances] = slices;
  snprintf(d->instance_name[d->instances++], 96, "%s", name);
}
void fake_activity(int i, int id, double busy_ms, double total_ms) {
  devices[i].busy_ms[id] = busy_ms;
  devices[i].total_ms[id] = total_ms;
}
void fake_clear(int i) {
  for (int l = 0; l < LISTS; l++) devices[i].processes[l] = 0;
  devices[i].samples = devices[i].instances = 0;
}

/* ---- handles: session << 16 | (MIG place + 1) << 8 | (device + 1) ---- */
static int enter(uintptr_t handle, const char *call, Device **d) {
  if (!initialised) return UNINITIALIZED;
  if (handle >> 16 != session) return INVALID_ARGUMENT;
  *d = &devices[(handle & 0xFF) - 1];
  (*d)->calls++;
  if ((*d)->delay_us) usleep((useconds_t)(*d)->delay_us);
  for (Failure *f = (*d)->failures; f < (*d)->failures + FAILURES; f++)
    if (f->code && (!strcmp(f->call, "*") || !strcmp(f->call, call))) return f->code;
  return SUCCESS;
}
#define ENTER Device *d; { int code = enter(handle, __func__, &d); if (code) return code; }

/* ---- the library ---- */
int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (!loaded) return DRIVER_NOT_LOADED;
  if (!initialised) { initialised = 1; session++; }
  return SUCCESS;
}
int nvmlShutdown(void) { if (!initialised) return UNINITIALIZED; initialised = 0; session++; return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the fake"; }
int nvmlDeviceGetCount_v2(unsigned *count) {
  if (!initialised) return UNINITIALIZED;
  *count = (unsigned)device_count;
  return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, uintptr_t *out) {
  if ((int)index >= device_count) return INVALID_ARGUMENT;
  uintptr_t handle = session << 16 | (index + 1);
  ENTER; (void)d;
  *out = handle;
  return SUCCESS;
}
int nvmlDeviceGetUUID(uintptr_t handle, char *out, unsigned size) {
  ENTER;
  unsigned place = handle >> 8 & 0xFF;
  if (place) snprintf(out, size, "MIG-fake-%d-%u", (int)(d - devices), place - 1);
  else snprintf(out, size, "GPU-fake-%d", (int)(d - devices));
  return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, uintptr_t *out) {
  int index = -1;
  if (!initialised) return UNINITIALIZED;
  if (sscanf(uuid, "GPU-fake-%d", &index) != 1 || index >= device_count) return NOT_FOUND;
  uintptr_t handle = session << 16 | (uintptr_t)(index + 1);
  ENTER; (void)d;
  *out = handle;
  return SUCCESS;
}
int nvmlDeviceGetName(uintptr_t handle, char *out, unsigned size) {
  ENTER;
  unsigned place = handle >> 8 & 0xFF;
  snprintf(out, size, "%s", place ? d->instance_name[place - 1] : "NVIDIA Fake");
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(uintptr_t handle, uint64_t *out) {
  ENTER; out[0] = (uint64_t)d->total; out[1] = (uint64_t)(d->total - d->used); out[2] = (uint64_t)d->used;
  return SUCCESS;
}
#define ONE(function, value) \
  int function(uintptr_t handle, unsigned *out) { ENTER; *out = (unsigned)(value); return SUCCESS; }
ONE(nvmlDeviceGetEnforcedPowerLimit, d->limit_mw)
ONE(nvmlDeviceGetIndex, d->index)
ONE(nvmlDeviceGetMinorNumber, d->file_number)
ONE(nvmlDeviceGetArchitecture, d->architecture)
ONE(nvmlDeviceGetPowerUsage, d->usage_mw)
ONE(nvmlDeviceGetMaxMigDeviceCount, INSTANCES)
ONE(nvmlDeviceGetGpuInstanceId, d->instance_id[(handle >> 8 & 0xFF) - 1])
int nvmlDeviceGetCudaComputeCapability(uintptr_t handle, int *major, int *minor) {
  ENTER; *major = (int)d->major; *minor = (int)d->minor; return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(uintptr_t handle, uint64_t *out) {
  ENTER; *out = (uint64_t)d->energy_mj; return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(uintptr_t handle, unsigned *out) {
  ENTER; out[0] = (unsigned)d->sm; out[1] = (unsigned)d->mem; return SUCCESS;
}
int nvmlDeviceGetTemperature(uintptr_t handle, unsigned sensor, unsigned *out) {
  ENTER; (void)sensor; *out = (unsigned)d->temperature; return SUCCESS;
}
int nvmlDeviceGetClockInfo(uintptr_t handle, unsigned type, unsigned *out) {
  ENTER; *out = type == 1 ? (unsigned)d->clock : 0; return SUCCESS;
}
int nvmlDeviceGetMigMode(uintptr_t handle, unsigned *current, unsigned *pending) {
  ENTER; *current = *pending = (unsigned)d->mig; return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(uintptr_t handle, unsigned place, uintptr_t *out) {
  ENTER;
  if ((int)place >= d->instances) return NOT_FOUND;
  *out = handle | (uintptr_t)(place + 1) << 8;
  return SUCCESS;
}
int nvmlDeviceGetAttributes_v2(uintptr_t handle, Attributes *out) {
  ENTER;
  memset(out, 0, sizeof *out);
  out->slices = (unsigned)d->instance_slices[(handle >> 8 & 0xFF) - 1];
  return SUCCESS;
}
int nvmlGpmQueryDeviceSupport(uintptr_t handle, unsigned *support) { /* version, isSupportedDevice */
  ENTER; support[1] = (unsigned)d->gpm; return support[0] == 1 ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlGpmSampleAlloc(GpmSample **out) { *out = calloc(1, sizeof **out); return SUCCESS; }
int nvmlGpmMigSampleGet(uintptr_t handle, unsigned id, GpmSample *out) {
  ENTER;
  if (!d->gpm) return NOT_SUPPORTED;
  for (int k = 0; k < d->instances; k++)
    if (d->instance_id[k] == (int)id) {
      *out = (GpmSample){d->busy_ms[id], d->total_ms[id]};
      return SUCCESS;
    }
  return INVALID_ARGUMENT; /* an instance that is gone */
}
int nvmlGpmMetricsGet(GpmRequest *request) {
  if (request->version != 1) return INVALID_ARGUMENT;
  for (unsigned k = 0; k < request->count; k++) {
    double busy_ms = request->after->busy_ms - request->before->busy_ms;
    double total_ms = request->after->total_ms - request->before->total_ms;
    request->metrics[k].ret = request->metrics[k].id == 2 && total_ms > 100 ? SUCCESS : INVALID_ARGUMENT;
    request->metrics[k].value = 100 * busy_ms / total_ms;
  }
  return SUCCESS;
}
int nvmlDeviceGetFieldValues(uintptr_t handle, int count, Field *f) {
  ENTER;
  d->field_calls++;
  for (int i = 0; i < count; i++) {
    int which = f[i].id == 83 ? 0 : f[i].id == 186 ? 1 : f[i].id == 185 ? 2 : -1;
    f[i].v.ull = 0xDEADBEEFDEADBEEFULL; /* what a reader sees that takes a failed or mistyped value */
    if (which < 0 || f[i].scope > 1) { f[i].ret = INVALID_ARGUMENT; continue; }
    f[i].ret = (uint32_t)d->field_code[which][f[i].scope];
    if (f[i].ret) continue;
    f[i].type = which ? 1 : (uint32_t)d->energy_type;
    if (which == 0) { if (f[i].type == 1) f[i].v.ui = (uint32_t)d->energy_mj; else f[i].v.ull = (uint64_t)d->energy_mj; }
    else f[i].v.ui = (uint32_t)(which == 1 ? d->instant_mw : d->average_mw); /* the upper half stays garbage */
  }
  return SUCCESS;
}

static int list(Device *d, int which, unsigned *count, char *out, size_t stride) {
  unsigned n = (unsigned)d->processes[which], room = *count;
  *count = n;
  if (out && d->grow > 0) { d->grow--; *count = room + 1; return INSUFFICIENT_SIZE; } /* others came meanwhile */
  if (n == 0) return SUCCESS;
  if (!out || room < n) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < n; i++) memcpy(out + i * stride, &d->lists[which][i], sizeof(Process));
  return SUCCESS;
}
#define LIST(kind, which) \
  int nvmlDeviceGet##kind##RunningProcesses_v2(uintptr_t handle, unsigned *count, char *out) { \
    ENTER; return list(d, which, count, out, sizeof(Process)); } \
  int nvmlDeviceGet##kind##RunningProcesses_v3(uintptr_t handle, unsigned *count, char *out) { \
    ENTER; return list(d, which, count, out, d->wide_v3 ? 32 : sizeof(Process)); }
LIST(Compute, 0)
LIST(Graphics, 1)
LIST(MPSCompute, 2)

static unsigned newer(const Device *d, uint64_t last_seen) {
  unsigned n = 0;
  for (int i = 0; i < d->samples; i++) n += d->sample[i].time > last_seen;
  return n;
}
int nvmlDeviceGetProcessUtilization(uintptr_t handle, Sample *out, unsigned *count, uint64_t last_seen) {
  ENTER;
  d->last_seen = (long long)last_seen;
  if (d->repeat) last_seen = 0;
  unsigned n = newer(d, last_seen), room = *count;
  *count = n;
  if (n == 0) return d->empty_success ? SUCCESS : NOT_FOUND;
  if (out && d->grow > 0) { d->grow--; return INSUFFICIENT_SIZE; }
  if (!out || room < n) return INSUFFICIENT_SIZE;
  for (int i = 0; i < d->samples; i++)
    if (d->sample[i].time > last_seen) {
      *out = d->sample[i];
      if (d->legacy_zero) out->sm = 0;
      out++;
    }
  return SUCCESS;
}
int nvmlDeviceGetProcessesUtilizationInfo(uintptr_t handle, SampleInfos *infos) {
  ENTER;
  d->info_last_seen = (long long)infos->last_seen;
  unsigned n = newer(d, infos->last_seen), room = infos->count;
  SampleInfo *out = infos->samples;
  infos->count = n;
  if (n == 0) return d->empty_success ? SUCCESS : NOT_FOUND;
  if (!out || room < n) return INSUFFICIENT_SIZE;
  for (int i = 0; i < d->samples; i++)
    if (d->sample[i].time > infos->last_seen)
      *out++ = (SampleInfo){d->sample[i].time, d->sample[i].pid, d->sample[i].sm, d->sample[i].mem, 0, 0, 0, 0};
  return SUCCESS;
}
