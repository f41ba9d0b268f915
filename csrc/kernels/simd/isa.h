/* isa.h - compiler differences: code regions for one instruction set (so that all files are compiled with the same
 * flags), inlining, unrolling. */
#ifndef LP_ISA_H
#define LP_ISA_H

#define LP_CAT_(a, b, c) a##b##c
#define LP_CAT(a, b, c) LP_CAT_(a, b, c)
#define LP_STRING(x) #x
#define LP_STRING_OF(x) LP_STRING(x)
#define LP_PRAGMA(x) _Pragma(LP_STRING(x))

/* INLINE functions are templates: their const int arguments are constants in every caller and select code. */
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* LP_NO_UNROLL: same bits, slower, compiles in a tenth of the time; for builds that only check bits. */
#if defined(LP_NO_UNROLL)
#define UNROLL
#elif defined(__clang__)
#define UNROLL LP_PRAGMA(clang loop unroll(full))
#else
#define UNROLL LP_PRAGMA(GCC unroll 32)
#endif

#if defined(__clang__)
#define LP_TARGET_BEGIN(set) LP_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define LP_TARGET_END LP_PRAGMA(clang attribute pop)
#else
#define LP_TARGET_BEGIN(set) LP_PRAGMA(GCC push_options) LP_PRAGMA(GCC target(set))
#define LP_TARGET_END LP_PRAGMA(GCC pop_options)
#endif

#endif
