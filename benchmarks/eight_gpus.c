/* The fake libnvidia-ml.so.1 of the tests as a host of eight busy GPUs, which answers at once.
 *
 * FAKE_PIDS lists the processes, the same number for each GPU. Once a second a thread adds a sample of each process
 * and advances the energy counters: 8 x 5 stores a second, in addition to what is measured. */
#include "../tests/fake_nvml/fake_nvml.c"
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { GPUS = 8 };
static uint32_t pids[GPUS][PROCESSES];
static int on_each;

static void *work(void *unused) {
  (void)unused;
  for (;;) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < GPUS; i++) {
      devices[i].energy_mj += 350000;
      if (devices[i].samples + on_each > PROCESSES) devices[i].samples = 0;
      for (int p = 0; p < on_each; p++)
        fake_sample(i, pids[i][p], (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000, 20, 10);
    }
    sleep(1);
  }
  return 0;
}
__attribute__((constructor)) static void begin(void) {
  fake_reset(GPUS);
  int count = 0;
  const char *text = getenv("FAKE_PIDS");
  char *end;
  for (; text && *text; text = *end ? end + 1 : end, count++)
    pids[count % GPUS][count / GPUS] = (uint32_t)strtoul(text, &end, 10);
  on_each = count / GPUS;
  for (int i = 0; i < GPUS; i++)
    for (int p = 0; p < on_each; p++) fake_process(i, 0, pids[i][p], 20ULL << 30, 0xFFFFFFFF);
  pthread_t thread;
  pthread_create(&thread, 0, work, 0);
}
