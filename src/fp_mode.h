/* The floating-point mode of a thread. fp_flush() turns on that of a kernel: denormals are flushed to
 * zero, results rounded to nearest, and nothing traps, whatever the mode of the caller, or of the
 * thread that has started a worker. fp_plain() turns on the mode in which a program begins, for
 * scalars: as that of a kernel, but denormals are kept. Both return the mode to give back to
 * fp_restore(), or, which is faster where nothing was changed, to fp_unplain(). Elsewhere than on x86-64 and arm64 all do nothing. */
#ifndef CYOPTIM_FP_MODE_H
#define CYOPTIM_FP_MODE_H

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
/* bit 15: results flush to zero; bit 6: denormal operands count as zero; bits 7 to 12: no traps;
 * bits 13 and 14, clear: round to nearest */
static inline unsigned long long fp_flush(void) {
    unsigned int mode = _mm_getcsr();
    _mm_setcsr(0x9fc0u);
    return mode;
}
static inline unsigned long long fp_plain(void) {
    unsigned int mode = _mm_getcsr();
    /* Bits 0 to 5 are flags. To write the register takes longer than to read it. */
    if ((mode & ~0x3fu) != 0x1f80u) _mm_setcsr(0x1f80u);
    return mode;
}
static inline void fp_restore(unsigned long long mode) {
    /* Keep the exception flags as the caller had them, too. */
    _mm_setcsr((unsigned int)mode);
}
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
/* FPCR bit 24: flush denormal operands and results to zero; all others, clear: round to nearest, no
 * traps */
static inline unsigned long long fp_flush(void) {
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(1ull << 24));
    return mode;
}
static inline unsigned long long fp_plain(void) {
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    if (mode != 0) __asm__ __volatile__("msr fpcr, %0" : : "r"(0ull));
    return mode;
}
static inline void fp_restore(unsigned long long mode) {
    __asm__ __volatile__("msr fpcr, %0" : : "r"(mode));
}
#elif defined(_M_ARM64)
#include <intrin.h>
static inline unsigned long long fp_flush(void) {
    unsigned long long mode = _ReadStatusReg(ARM64_FPCR);
    _WriteStatusReg(ARM64_FPCR, 1ull << 24);
    return mode;
}
static inline unsigned long long fp_plain(void) {
    unsigned long long mode = _ReadStatusReg(ARM64_FPCR);
    if (mode != 0) _WriteStatusReg(ARM64_FPCR, 0);
    return mode;
}
static inline void fp_restore(unsigned long long mode) {
    _WriteStatusReg(ARM64_FPCR, mode);
}
#else
static inline unsigned long long fp_flush(void) { return 0; }
static inline unsigned long long fp_plain(void) { return 0; }
static inline void fp_restore(unsigned long long mode) { (void)mode; }
#endif

static inline void fp_unplain(unsigned long long mode) {
#if defined(__x86_64__) || defined(_M_X64)
    if ((mode & ~0x3full) != 0x1f80u) fp_restore(mode);
#else
    if (mode != 0) fp_restore(mode);
#endif
}

#endif
