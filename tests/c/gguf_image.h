/* gguf_image.h - the bytes of a GGUF file from a line of text, for the tests.
 *
 * Words with spaces between: 4:3 is the number 3 in 4 bytes (also 1:, 2:, 8:), s:abc a string after its length, r:abc
 * the bytes alone, x:00ff bytes in hex, z:5 zeros, p:32 zeros up to a multiple of 32. */
#ifndef LP_GGUF_IMAGE_H
#define LP_GGUF_IMAGE_H

#include "image.h" /* image */

#define GGUF(n_tensors, n_keys) "r:GGUF 4:3 8:" #n_tensors " 8:" #n_keys " "
#define KEY(name, type, value) "s:" name " 4:" #type " " value " "
#define TENSOR1(name, dim, type, offset) "s:" name " 4:1 8:" #dim " 4:" #type " 8:" #offset " "
#define TENSOR2(name, dim0, dim1, type, offset) "s:" name " 4:2 8:" #dim0 " 8:" #dim1 " 4:" #type " 8:" #offset " "

/* Bytes are counted, and copied once there is room for them; NULL: zeros. */
static inline void image_add(image *file, const void *bytes, size_t n) {
    if (file->bytes && bytes) memcpy(file->bytes + file->n_bytes, bytes, n);
    if (file->bytes && !bytes) memset(file->bytes + file->n_bytes, 0, n);
    file->n_bytes += n;
}

static inline void image_add_word(image *file, const char *word, size_t n_word) {
    const char *text = word + 2;
    size_t n = n_word - 2;
    uint64_t number = strtoull(text, NULL, 10);
    if (word[0] >= '1' && word[0] <= '8') image_add(file, &number, (size_t)(word[0] - '0'));
    if (word[0] == 's') image_add(file, &(uint64_t){n}, 8);
    if (word[0] == 's' || word[0] == 'r') image_add(file, text, n);
    if (word[0] == 'z') image_add(file, NULL, (size_t)number);
    if (word[0] == 'p') image_add(file, NULL, (size_t)((number - file->n_bytes % number) % number));
    for (size_t i = 0; word[0] == 'x' && i < n; i += 2) {
        char digits[3] = {text[i], text[i + 1], 0};
        image_add(file, &(unsigned char){(unsigned char)strtoul(digits, NULL, 16)}, 1);
    }
}

static inline void image_add_words(image *file, const char *recipe) {
    for (const char *word = recipe; *(word += strspn(word, " ")); word += strcspn(word, " "))
        image_add_word(file, word, strcspn(word, " "));
}

/* A block of its exact size, so that the address sanitizer sees a step too far. The caller frees the bytes. */
static inline image make_gguf(const char *recipe) {
    image counted = {NULL, 0};
    image_add_words(&counted, recipe);
    image file = {malloc(counted.n_bytes ? counted.n_bytes : 1), 0};
    image_add_words(&file, recipe);
    return file;
}

#endif
