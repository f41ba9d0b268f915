/* replay.c - gives a fuzz target a main: every file named, and every file of a folder named, goes through it once.
 *
 * So the corpus is replayed by the ordinary suite, with any compiler and without libFuzzer. */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    long size = -1;
    if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0)
        data = malloc(size ? (size_t)size : 1); /* of the exact size, for the address sanitizer */
    int good = data && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (file) fclose(file);
    if (good)
        LLVMFuzzerTestOneInput(data, (size_t)size);
    else
        perror(path);
    free(data);
    return good;
}

static void replay(const char *path, int *n_passed, int *n_failed) {
    char inside[4096];
    struct stat st;
    DIR *folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    if (!folder) {
        ++*(replay_file(path) ? n_passed : n_failed);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));) {
        int n = snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && n < (int)sizeof inside) ++*(replay_file(inside) ? n_passed : n_failed);
    }
    closedir(folder);
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    int n_passed = 0, n_failed = 0;
    for (int i = 1; i < argc; i++) replay(argv[i], &n_passed, &n_failed);
    printf("%s: %d passed, %d failed\n", slash ? slash + 1 : argv[0], n_passed, n_failed);
    return n_failed || !n_passed ? 1 : 0;
}
