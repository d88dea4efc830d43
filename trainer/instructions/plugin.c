/* Counts the instructions that an emulated program executes, and writes the count down at every mark.

   A QEMU TCG plugin (QEMU documentation, "QEMU TCG Plugins"). Debian packages no header for it: the few prototypes used
   are written out here; they are the same from API version 1 (QEMU 6, 7, 8) to those of QEMU 9 and 10, which refuse 1.
   A mark is the system call umask(MARK): Python has it, nothing else that runs here calls it, and it disturbs nothing. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef API_VERSION
#define API_VERSION 1
#endif
#define UMASK_ARM64 166 /* include/uapi/asm-generic/unistd.h */
#define MARK 0521       /* as trainer/instructions/step.py calls it */
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*exec_cb)(unsigned int, void *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_cb, int flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = API_VERSION;

static uint64_t executed; /* by all threads together */
static FILE *out;

static void block(unsigned int vcpu, void *instructions) {
  (void)vcpu;
  __atomic_fetch_add(&executed, (uint64_t)(uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, block, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number == UMASK_ARM64 && a1 == MARK) {
    fprintf(out, "%" PRIu64 "\n", __atomic_load_n(&executed, __ATOMIC_RELAXED));
    fflush(out);
  }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
  (void)info, (void)argc, (void)argv;
  const char *file = getenv("POTSTILL_INSTRUCTIONS");
  out = file ? fopen(file, "w") : NULL;
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
