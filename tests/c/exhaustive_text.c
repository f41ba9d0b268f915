/* exhaustive_text.c - every one of the 2^32 float32 values to its shortest text and back.
 *
 *     exhaustive_text [first [last [threads]]]     chunks first..last of 0..255, one per biased exponent
 *
 * A chunk is the 2^23 magnitudes of one biased exponent, with both signs; 0 to 255 is all there is. The check is
 * slow and plain. It takes digits and exponent from the text and asks with integers of 256 bits:
 *   1. does the decimal lie in the rounding interval of the float, so that it reads back to it?
 *   2. do both neighbours with a digit less lie outside? (if any shorter decimal were inside, so would one of them)
 *   3. is no decimal with as many digits closer, and in a tie, is the last digit even?
 *   4. is the layout the one of the rule, built here anew from digits and exponent?
 *   5. does parse.c give back the same bits?
 * Before it starts it must reject texts that are wrong in each of these ways. */
#define _POSIX_C_SOURCE 200809L
#include "../../csrc/text/format.h"
#include "../../csrc/text/parse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_PER_CALL 4096
#define N_POWERS 24

/* ---- integers of 256 bits ---- */

typedef struct {
    uint64_t w[4];
} big;

static big times(big a, uint64_t factor) {
    unsigned __int128 sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (unsigned __int128)a.w[i] * factor;
        a.w[i] = (uint64_t)sum;
        sum >>= 64;
    }
    if (sum) abort();
    return a;
}

static int compare(big a, big b) {
    for (int i = 3; i >= 0; i--)
        if (a.w[i] != b.w[i]) return a.w[i] < b.w[i] ? -1 : 1;
    return 0;
}

static big distance(big a, big b) {
    if (compare(a, b) < 0) return distance(b, a);
    unsigned __int128 borrow = 0;
    for (int i = 0; i < 4; i++) {
        unsigned __int128 x = (unsigned __int128)a.w[i] - b.w[i] - borrow;
        a.w[i] = (uint64_t)x;
        borrow = x >> 64 & 1;
    }
    return a;
}

/* ---- the rounding interval ---- */

/* 2^(q-2) and powers of ten, all multiplied by one number that makes them whole. */
typedef struct {
    big quarter;       /* a quarter of a step of the mantissa */
    big ten[N_POWERS]; /* 10^(k_min + i) */
    int k_min;
} scale;

static scale make_scale(uint32_t biased) {
    int q = (int)(biased ? biased : 1) - 150;
    scale s = {{{1}}, {{{1}}}, (q * 30103 - 100000) / 100000 - 2}; /* safely below the last digit of any text */
    for (int i = 0; i < q - 2; i++) s.quarter = times(s.quarter, 2);
    for (int i = 0; i < -s.k_min; i++) s.quarter = times(s.quarter, 10);
    for (int i = 0; i < 2 - q; i++) s.ten[0] = times(s.ten[0], 2);
    for (int i = 0; i < s.k_min; i++) s.ten[0] = times(s.ten[0], 10);
    for (int i = 1; i < N_POWERS && s.ten[i - 1].w[3] >> 60 == 0; i++) s.ten[i] = times(s.ten[i - 1], 10);
    return s;
}

/* The decimals that read back to a float: from low to high, the ends too if `closed`. */
typedef struct {
    big low, value, high;
    int closed;
} interval;

static interval interval_of(uint32_t magnitude, const scale *s) {
    uint32_t biased = magnitude >> 23, mantissa = magnitude & 0x7fffff;
    uint64_t c = biased ? mantissa | 0x800000 : mantissa;
    int uneven = mantissa == 0 && biased > 1; /* below a power of two the step is half as long */
    return (interval){times(s->quarter, 4 * c - (uneven ? 1 : 2)), times(s->quarter, 4 * c),
                      times(s->quarter, 4 * c + 2), c % 2 == 0};
}

static int inside(const interval *v, big x) {
    int low = compare(x, v->low), high = compare(x, v->high);
    return v->closed ? low >= 0 && high <= 0 : low > 0 && high < 0;
}

/* ---- texts ---- */

typedef struct {
    uint64_t digits; /* without zeros at the end */
    int n, exponent; /* n digits; the last one counts 10^exponent */
} decimal;

/* Digits and exponent of d.ddd or d.ddde+dd; -1 when it is something else. */
static int parse(decimal *d, const char *text, size_t length) {
    size_t i = 0;
    int behind = 0, shift = 0;
    *d = (decimal){0, 0, 0};
    for (; i < length && (text[i] == '.' || (text[i] >= '0' && text[i] <= '9')); i++) {
        if (text[i] == '.') {
            if (behind++) return -1;
            continue;
        }
        if (d->digits > UINT64_MAX / 100) return -1;
        d->digits = 10 * d->digits + (uint64_t)(text[i] - '0');
        d->exponent -= behind;
    }
    if (i < length) {
        if (length - i != 4 || text[i] != 'e' || (text[i + 1] != '-' && text[i + 1] != '+')) return -1;
        shift = 10 * (text[i + 2] - '0') + (text[i + 3] - '0');
        d->exponent += text[i + 1] == '-' ? -shift : shift;
    }
    for (; d->digits && d->digits % 10 == 0; d->exponent++) d->digits /= 10;
    for (uint64_t x = d->digits; x; x /= 10) d->n++;
    return 0;
}

/* The text that NumPy's rule gives to these digits: an exponent below 1e-4 and from 1e6 on. */
static size_t lay_out(char *dst, decimal d, float value) {
    char digits[24] = {0}, *p = dst;
    int point = d.n + d.exponent; /* digits before the point */
    for (int i = d.n; i-- > 0; d.digits /= 10) digits[i] = (char)('0' + d.digits % 10);
    if ((double)value < 1e-4 || (double)value >= 1e6) {
        *p++ = digits[0];
        if (d.n > 1) *p++ = '.';
        for (int i = 1; i < d.n; i++) *p++ = digits[i];
        int e = point - 1, magnitude = e < 0 ? -e : e;
        *p++ = 'e', *p++ = e < 0 ? '-' : '+';
        *p++ = (char)('0' + magnitude / 10), *p++ = (char)('0' + magnitude % 10);
        return (size_t)(p - dst);
    }
    if (point <= 0) *p++ = '0';
    for (int i = 0; i < point; i++) *p++ = i < d.n ? digits[i] : '0';
    *p++ = '.';
    for (int i = point; i < 0; i++) *p++ = '0';
    for (int i = point > 0 ? point : 0; i < d.n; i++) *p++ = digits[i];
    if (d.n <= point) *p++ = '0';
    return (size_t)(p - dst);
}

/* 0 when the text of a finite number above zero is right, else the number of the rule that it breaks. */
static int judge(uint32_t magnitude, const char *text, size_t length, const scale *s) {
    decimal d;
    float value;
    memcpy(&value, &magnitude, 4);
    if (length > 20 || parse(&d, text, length) || d.digits == 0) return 4;
    int i = d.exponent - s->k_min;
    if (i < 0 || i + 1 >= N_POWERS) return 2;
    interval v = interval_of(magnitude, s);
    big unit = s->ten[i];
    if (!inside(&v, times(unit, d.digits))) return 1;
    if (d.n > 1) {
        uint64_t shorter = d.digits / 10;
        if (inside(&v, times(s->ten[i + 1], shorter)) || inside(&v, times(s->ten[i + 1], shorter + 1))) return 2;
    }
    big off = distance(times(unit, d.digits), v.value);
    for (uint64_t other = d.digits - 1; other <= d.digits + 1; other += 2) {
        big x = times(unit, other);
        if (!other || !inside(&v, x)) continue;
        int order = compare(distance(x, v.value), off);
        if (order < 0 || (order == 0 && d.digits % 2)) return 3;
    }
    char expected[40];
    if (lay_out(expected, d, value) != length || memcmp(expected, text, length) != 0) return 4;
    return 0;
}

/* ---- all of them ---- */

static atomic_int next_chunk;
static int last_chunk;
static atomic_ulong n_passed, n_failed;

static void report(uint32_t bits, const char *text, size_t length, int rule) {
    if (atomic_fetch_add(&n_failed, 1) < 20)
        fprintf(stderr, "0x%08x: \"%.*s\" breaks rule %d\n", bits, (int)length, text, rule);
}

static int judge_any(uint32_t magnitude, const char *text, size_t length, const scale *s) {
    if (magnitude == 0) return length == 3 && memcmp(text, "0.0", 3) == 0 ? 0 : 4;
    if (magnitude == 0x7f800000) return length == 3 && memcmp(text, "inf", 3) == 0 ? 0 : 4;
    if (magnitude > 0x7f800000) return length == 3 && memcmp(text, "nan", 3) == 0 ? 0 : 4;
    return judge(magnitude, text, length, s);
}

/* One row of values and one of the same with a minus sign. */
static void check_rows(uint32_t first, const scale *s) {
    static _Thread_local float values[2][N_PER_CALL], back[2][N_PER_CALL];
    static _Thread_local char text[2 * N_PER_CALL * (LP_NUMBER_BYTES + 1) + 2];
    for (uint32_t i = 0; i < N_PER_CALL; i++) {
        uint32_t plus = first + i, minus = plus | 0x80000000;
        memcpy(&values[0][i], &plus, 4);
        memcpy(&values[1][i], &minus, 4);
    }
    size_t n_bytes = lp_text_rows_f32(text, values[0], 2, N_PER_CALL, ',', LP_SHORTEST);
    lp_text_fault fault;
    size_t n_rows = lp_text_read_rows(back[0], text, n_bytes, 2, N_PER_CALL, ',', &fault);
    const char *p = text, *m = memchr(text, '\n', n_bytes);
    m = m ? m + 1 : text;
    for (uint32_t i = 0; i < N_PER_CALL; i++) {
        uint32_t magnitude = first + i, read[2], nan = magnitude > 0x7f800000;
        size_t length = strcspn(p, ",\n"), m_length = strcspn(m, ",\n"), sign = !nan;
        memcpy(&read[0], &back[0][i], 4);
        memcpy(&read[1], &back[1][i], 4);
        int rule = judge_any(magnitude, p, length, s);
        if (!rule && (m_length != length + sign || (sign && *m != '-') || memcmp(m + sign, p, length) != 0)) rule = 4;
        int same = read[0] == magnitude && read[1] == (magnitude | 0x80000000);
        if (!rule && (n_rows != 2 || !(same || (nan && read[0] > 0x7f800000)))) rule = 5;
        if (rule)
            report(magnitude, p, length, rule);
        else
            atomic_fetch_add_explicit(&n_passed, 2, memory_order_relaxed);
        p += length + 1, m += m_length + 1;
    }
}

static void *work(void *arg) {
    for (int chunk; (chunk = atomic_fetch_add(&next_chunk, 1)) <= last_chunk;) {
        scale s = make_scale((uint32_t)chunk);
        uint32_t first = (uint32_t)chunk << 23;
        for (uint32_t i = 0; i < 1u << 23; i += N_PER_CALL) check_rows(first + i, &s);
        if (chunk % 32 == 31) fprintf(stderr, "chunk %d of 255 done, %lu failed\n", chunk, (unsigned long)n_failed);
    }
    return arg;
}

/* The judge must tell right from wrong before its word counts. */
static int judge_works(void) {
    static const struct {
        uint32_t bits;
        const char *text;
        int rule;
    } cases[] = {{0x3dcccccd, "0.1", 0},           {0x3dcccccd, "0.10000001", 1},    {0x3dcccccd, "0.1000000014", 2},
                 {0x3dcccccd, "1e-01", 4},         {0x3dcccccd, "0.10", 4},          {0x3f9e0652, "1.2345679", 0},
                 {0x3f9e0652, "1.2345678", 1},     {0x3f9e0652, "1.23456784", 2},    {0x00000001, "1e-45", 0},
                 {0x00000001, "1.4e-45", 2},       {0x00000001, "2e-45", 3},         {0x7f7fffff, "3.4028235e+38", 0},
                 {0x7f7fffff, "3.4028234e+38", 3}, {0x4b800000, "1.6777216e+07", 0}, {0x4b800000, "16777216.0", 4}};
    int works = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scale s = make_scale(cases[i].bits >> 23);
        int rule = judge(cases[i].bits, cases[i].text, strlen(cases[i].text), &s);
        if (rule == cases[i].rule) continue;
        fprintf(stderr, "the judge says %d of \"%s\", not %d\n", rule, cases[i].text, cases[i].rule);
        works = 0;
    }
    return works;
}

int main(int argc, char **argv) {
    int first = argc > 1 ? atoi(argv[1]) : 0;
    int n_threads = argc > 3 ? atoi(argv[3]) : 2;
    last_chunk = argc > 2 ? atoi(argv[2]) : argc > 1 ? first : 255;
    if (first < 0 || last_chunk > 255 || first > last_chunk || n_threads < 1 || n_threads > 256 || !judge_works()) {
        fprintf(stderr, "usage: exhaustive_text [first [last [threads]]], chunks 0 .. 255, 1 .. 256 threads\n");
        return 2;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    atomic_store(&next_chunk, first);
    pthread_t threads[256];
    int n_started = 0;
    while (n_started < n_threads && pthread_create(&threads[n_started], NULL, work, NULL) == 0) n_started++;
    if (n_started == 0) work(NULL);
    for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    unsigned long passed = atomic_load(&n_passed), failed = atomic_load(&n_failed);
    printf("exhaustive_text: chunks %d to %d in %.0f s\n", first, last_chunk, difftime(end.tv_sec, start.tv_sec));
    printf("exhaustive_text: %lu passed, %lu failed\n", passed, failed);
    return failed || !passed;
}
