/* vector.h - names for vectors of LP_N lanes, and the plain verbs if no instruction set has defined its own.
 *
 * In a template, VEC is a vector (v8), V(add) its verb (v8_add), VECD and VD() the same in float64 (v8d, v8d_add), and
 * T(name) a function of the template (name_8). See parameters.h. */
#ifndef LP_VECTOR_H
#define LP_VECTOR_H

#include "../parameters.h" /* LANES, NARROW_LANES */
#include "isa.h"           /* LP_CAT */

#ifndef LP_N
#define LP_N LANES
#endif

#define VEC LP_CAT(v, LP_N, )
#define VECD LP_CAT(v, LP_N, d)
#define V(verb) LP_CAT(VEC, _, verb)
#define VD(verb) LP_CAT(VECD, _, verb)
#define T(name) LP_CAT(name, _, LP_N)
#define NARROW_T(name) LP_CAT(name, _, NARROW_LANES)

#if !defined(LP_AVX2_H) && !defined(LP_NEON_H)
#define PLAIN_N LANES
#include "plain.h"
#if NARROW_LANES < LANES
#undef LP_PLAIN_H
#undef PLAIN_N
#define PLAIN_N NARROW_LANES
#include "plain.h"
#endif
#endif

/* LP_N elements of any type to float32. */
#define V_WIDEN(p, element) \
    ((element) == LP_ELEMENT_F32 ? V(widen_f32)(p) : (element) == LP_ELEMENT_BF16 ? V(widen_bf16)(p) : V(widen_f16)(p))

#endif
