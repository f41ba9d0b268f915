/* pages.h - pages of memory and of mapped files: anonymous memory, and advice to the system.
 *
 * Advice changes no contents and may be ignored: it has no result. Ranges need not begin or end on a page. */
#ifndef LP_PAGES_H
#define LP_PAGES_H

#include <stddef.h>

#include "../base/platform.h"

size_t lp_page_bytes(void);

/* Anonymous memory, all zeros; NULL when the system refuses. */
void *lp_pages_map(size_t n_bytes);
void lp_pages_unmap(void *data, size_t n_bytes);

/* Use huge pages, also for the page cache of a mapped file; or small pages again. */
void lp_pages_use_huge(const void *data, size_t n_bytes);
void lp_pages_use_small(const void *data, size_t n_bytes);
/* Returns the pages that lie within the range to the system; they are zeros when next touched. */
void lp_pages_discard(void *data, size_t n_bytes);

/* 1 when the page of this byte of a mapped file has to be read from disk; 0 also when the system does not say. */
int lp_page_is_cold(const void *byte);
/* Reads the pages now, as far as the system can do that without SIGBUS on a truncated file; else as lp_pages_prefetch.
 */
void lp_pages_read(const void *data, size_t n_bytes);
/* Starts reading the pages. */
void lp_pages_prefetch(const void *data, size_t n_bytes);

#endif
