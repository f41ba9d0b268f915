/* text_functions.h - the functions of _core that turn numbers into text and back.
 *
 * module.c adds them with PyModule_AddFunctions(module, lp_text_methods). All of them take any object with the
 * buffer protocol (arrays, bytes, maps) and release the GIL while they work. */
#ifndef LP_PYTHON_TEXT_FUNCTIONS_H
#define LP_PYTHON_TEXT_FUNCTIONS_H

#include <Python.h>

/* format_floats, format_words, text_table, text_capacity, parse_floats; ends in an empty row. */
extern PyMethodDef lp_text_methods[];

#endif
