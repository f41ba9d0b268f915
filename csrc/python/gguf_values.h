/* gguf_values.h - the values of a GGUF file's keys as Python objects. */
#ifndef LP_PYTHON_GGUF_VALUES_H
#define LP_PYTHON_GGUF_VALUES_H

#include "module.h"

/* int, float, bool, str, or a list of these. A float32 becomes the double of the shortest decimal that reads back to
 * it: 1e-5 and not 9.99999974737875e-06. Bytes of strings that are not UTF-8 become lone surrogates, as file names
 * have them ("surrogateescape"), so that nothing is lost. NULL with an exception set. */
PyObject *lp_gguf_value(const lp_module_state *state, const lp_gguf *file, const lp_gguf_key *key);

#endif
