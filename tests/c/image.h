/* image.h - the bytes of a safetensors file, put together by hand for the tests. */
#ifndef LP_IMAGE_H
#define LP_IMAGE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A block of its exact size, so that the address sanitizer sees a step too far. */
typedef struct {
    unsigned char *bytes;
    size_t n_bytes;
} image;

/* length | header | data, where data byte i is i % 251. The caller frees the bytes. */
static inline image make_image_n(const char *header, size_t n_header, size_t n_data) {
    image file = {malloc(8 + n_header + n_data), 8 + n_header + n_data};
    for (int i = 0; i < 8; i++) file.bytes[i] = (unsigned char)((uint64_t)n_header >> (8 * i));
    memcpy(file.bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) file.bytes[8 + n_header + i] = (unsigned char)(i % 251);
    return file;
}

static inline image make_image(const char *header, size_t n_data) {
    return make_image_n(header, strlen(header), n_data);
}

/* Entries of one byte, and of none. */
#define ENTRY(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" #begin "," #end "]}"
#define EMPTY(name, at) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[" #at "," #at "]}"

#endif
