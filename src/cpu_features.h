/* Which of our instruction sets the processor has AND the operating system saves: a processor flag
 * alone is not enough, because a kernel that does not save the wide registers corrupts them. */
#ifndef CYOPTIM_CPU_FEATURES_H
#define CYOPTIM_CPU_FEATURES_H

#if defined(__x86_64__) || defined(_M_X64)

#ifdef _MSC_VER
#include <intrin.h>
#include <immintrin.h>
static inline void cpu_id(int leaf, int sub, unsigned int r[4]) {
    int out[4];
    __cpuidex(out, leaf, sub);
    for (int i = 0; i < 4; i++) r[i] = (unsigned int)out[i];
}
static inline unsigned long long cpu_saved_state(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static inline void cpu_id(int leaf, int sub, unsigned int r[4]) {
    __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
}
static inline unsigned long long cpu_saved_state(void) {
    unsigned int low, high;
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
}
#endif

static inline int cpu_has(unsigned int word, int bit) { return (int)((word >> bit) & 1u); }

/* 0: baseline, 1: AVX2 with FMA and F16C, 2: AVX-512 F, DQ, BW and VL, 3: with BF16 and VBMI */
static inline int cpu_level(void) {
    unsigned int r[4], first[4], more[4];
    unsigned long long saved;
    cpu_id(0, 0, r);
    if (r[0] < 7) return 0;
    cpu_id(1, 0, first);
    /* ecx: bit 27 OSXSAVE, 28 AVX, 12 FMA, 29 F16C */
    if (!(cpu_has(first[2], 27) && cpu_has(first[2], 28) && cpu_has(first[2], 12) && cpu_has(first[2], 29))) return 0;
    saved = cpu_saved_state();
    if ((saved & 0x6) != 0x6) return 0; /* xmm and ymm */
    cpu_id(7, 0, r);
    if (!cpu_has(r[1], 5)) return 0; /* ebx: bit 5 AVX2 */
    if ((saved & 0xe6) != 0xe6) return 1; /* mask registers, zmm */
    /* ebx: bits 16 F, 17 DQ, 30 BW, 31 VL */
    if (!(cpu_has(r[1], 16) && cpu_has(r[1], 17) && cpu_has(r[1], 30) && cpu_has(r[1], 31))) return 1;
    if (r[0] < 1) return 2; /* the largest subleaf */
    cpu_id(7, 1, more);
    /* ecx: bit 1 VBMI; of subleaf 1, eax: bit 5 BF16 */
    return cpu_has(r[2], 1) && cpu_has(more[0], 5) ? 3 : 2;
}

#else
static inline int cpu_level(void) { return 0; }
#endif

#endif
