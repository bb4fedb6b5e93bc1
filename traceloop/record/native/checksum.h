/* The checksum of a batch: zlib.crc32's. zlib takes 12 us for 1,000 records, as much as the rest of writing them; with
   the processor's carry-less multiplication it is 1 us.

   A message is a polynomial over GF(2), and its CRC the remainder by P. What is ``distance`` bits ahead of other data
   may be folded into that: multiplied by x^distance mod P and added to it, the remainder stays what it was. (Gopal and
   others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009: the constants.) So
   64 bytes at a time are folded into the next 64, at last into 16 bytes, and those are left to a table. */

#ifndef TRACELOOP_CHECKSUM_H
#define TRACELOOP_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define CHECKSUM_FOLDS 1
#include <emmintrin.h>
#include <wmmintrin.h>
#endif

/* What eight bytes contribute, each at its place (zlib's older algorithm, "slicing by eight"). */
typedef struct {
    uint32_t of[8][256];
    int folds; /* the processor can multiply without carry */
} Checksum;

static inline void
checksum_prepare(Checksum *tables)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        tables->of[0][byte] = crc;
    }
    for (int place = 1; place < 8; place++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = tables->of[place - 1][byte];
            tables->of[place][byte] = crc >> 8 ^ tables->of[0][crc & 0xFF];
        }
#ifdef CHECKSUM_FOLDS
    tables->folds = __builtin_cpu_supports("pclmul") != 0;
#endif
}

static inline uint32_t
checksum_by_tables(const Checksum *tables, uint32_t crc, const unsigned char *bytes, size_t size)
{
    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t eight;
        memcpy(&eight, bytes, 8); /* little-endian, as all that we are built for */
        eight ^= crc;
        crc = 0;
        for (int place = 0; place < 8; place++)
            crc ^= tables->of[7 - place][eight >> 8 * place & 0xFF];
    }
    for (; size > 0; size--, bytes++)
        crc = crc >> 8 ^ tables->of[0][(crc ^ *bytes) & 0xFF];
    return crc;
}

#ifdef CHECKSUM_FOLDS
#define FOLD __attribute__((target("pclmul"))) static inline

FOLD __m128i
fold_into(__m128i ahead, __m128i factors, __m128i data)
{
    __m128i low = _mm_clmulepi64_si128(ahead, factors, 0x00), high = _mm_clmulepi64_si128(ahead, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), data);
}

/* Of 64 bytes or more. Returns the bytes that stand for all but the last ``*rest`` ones, which come behind them. */
FOLD __m128i
checksum_fold(uint32_t crc, const unsigned char *bytes, size_t *rest)
{
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i *data = (const __m128i *)bytes;
    size_t size = *rest;
    __m128i lane[4];
    for (int i = 0; i < 4; i++)
        lane[i] = _mm_loadu_si128(data++);
    lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)crc));
    for (size -= 64; size >= 64; size -= 64)
        for (int i = 0; i < 4; i++)
            lane[i] = fold_into(lane[i], by_64, _mm_loadu_si128(data++));
    __m128i sum = lane[0];
    for (int i = 1; i < 4; i++)
        sum = fold_into(sum, by_16, lane[i]);
    for (; size >= 16; size -= 16)
        sum = fold_into(sum, by_16, _mm_loadu_si128(data++));
    *rest = size;
    return sum;
}
#endif

/* Goes on from ``crc``, which is 0 at the beginning: zlib.crc32(bytes, crc). */
static inline uint32_t
checksum_of(const Checksum *tables, uint32_t crc, const void *start, size_t size)
{
    const unsigned char *bytes = start;
    crc = ~crc;
#ifdef CHECKSUM_FOLDS
    if (tables->folds && size >= 64) {
        size_t rest = size;
        unsigned char sum[16];
        _mm_storeu_si128((__m128i *)sum, checksum_fold(crc, bytes, &rest));
        crc = checksum_by_tables(tables, 0, sum, sizeof(sum));
        bytes += size - rest;
        size = rest;
    }
#endif
    return ~checksum_by_tables(tables, crc, bytes, size);
}

#endif
