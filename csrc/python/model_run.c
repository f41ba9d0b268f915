/* model_run.c - Model.run, Model.profile and Model.plan: parses arguments, allocates arrays, runs lp_forward without
 * the GIL, and returns the arrays.
 *
 * Arguments read without the GIL are copied first: another thread may write to the caller's arrays after they were
 * checked. All sizes are summed and compared with available memory before the first byte is allocated. */
#include "module.h"

#include <stdio.h>

#include "../run/forward.h" /* lp_forward */
#include "../sys/limits.h"  /* lp_limits_memory */
#include "../sys/pool.h"    /* LP_MAX_THREADS */
#include "../sys/profile.h" /* lp_profile_lap, lp_stage_name */
#include "../run/run.h"     /* lp_run */
#include "../base/size.h"   /* lp_size_add */
#include "observer.h"       /* lp_observation */
#include "poll.h"           /* lp_poll_python */
#include "run_branch.h"     /* lp_branch_args */
#include "run_edits.h"      /* lp_edit_list */

/* One point at some layers: an array [n_layers, n_floats]. */
typedef struct {
    lp_point point;
    int before; /* the values before their edits */
    size_t n_layers, n_floats, n_bytes;
    size_t *layers;
    lp_block block;
} capture;

typedef struct {
    const lp_module_state *state;
    lp_run run;
    PyObject *ids;                      /* int32 [n_tokens], a copy */
    size_t *seq_start;                  /* [n_seqs + 1], a copy */
    size_t n_seqs, n_captures, n_bytes; /* bytes: of the arrays, scratch, and what the caches grow by */
    PyObject *cache_objects;            /* a tuple that keeps `caches` alive */
    lp_cache **caches;                  /* [n_caches], each held by this call; NULL: none are given */
    size_t n_caches, cache_bytes;
    lp_branch_args branch;
    int last_rows;
    capture *captures;
    PyObject *edits, *changed; /* arguments, borrowed */
    lp_edit_list list;
    size_t n_kept;       /* edits that copy values of captures before their edits */
    size_t rope_length;  /* 0: of each sequence */
    PyObject *progress;  /* borrowed; NULL disables it */
    lp_profile *profile; /* the same */
    lp_observation observation;
} call;

static int report(void *arg) {
    const call *c = arg;
    if (!c->progress) return 0; /* 0 of 0 steps: memory is being allocated */
    PyObject *result =
        PyObject_CallFunction(c->progress, "nn", (Py_ssize_t)c->run.steps_done, (Py_ssize_t)c->run.n_steps);
    if (!result) return -1;
    Py_DECREF(result);
    return 0;
}

/* A sequence of integers >= 0 as sizes, for PyMem_Free; NULL with an exception set. */
static size_t *sizes_from(PyObject *sequence, size_t *n) {
    PyObject *tuple = PySequence_Tuple(sequence); /* frozen: its items may run code */
    if (!tuple) return NULL;
    *n = (size_t)PyTuple_Size(tuple);
    size_t *sizes = PyMem_Calloc(*n ? *n : 1, sizeof *sizes);
    if (!sizes) PyErr_NoMemory();
    for (size_t i = 0; sizes && i < *n; i++) {
        sizes[i] = PyLong_AsSize_t(PyTuple_GetItem(tuple, (Py_ssize_t)i));
        if (sizes[i] == (size_t)-1 && PyErr_Occurred()) {
            PyMem_Free(sizes);
            sizes = NULL;
        }
    }
    Py_DECREF(tuple);
    return sizes;
}

static int take_tokens(call *c, PyObject *token_ids, PyObject *seq_start) {
    size_t n;
    c->ids = PyArray_FROMANY(token_ids, NPY_INT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!c->ids || !(c->seq_start = sizes_from(seq_start, &n))) return -1;
    size_t n_ids = (size_t)PyArray_SIZE((PyArrayObject *)c->ids);
    if (n < 2 || c->seq_start[n - 1] != n_ids)
        return lp_refuse(c->state, LP_EARG, "seq_start must run from 0 to the number of ids, %zu", n_ids);
    c->n_seqs = n - 1;
    return 0;
}

static int take_caches(call *c, PyObject *caches) {
    if (caches == Py_None) return 0;
    c->cache_objects = PySequence_Tuple(caches);
    if (!c->cache_objects || !(c->caches = lp_caches_hold(c->state, c->cache_objects, &c->n_caches))) return -1;
    if (c->n_caches == c->n_seqs) return 0;
    return lp_refuse(c->state, LP_EARG, "%zu caches for %zu sequences", c->n_caches, c->n_seqs);
}

static int take_capture(call *c, capture *to, PyObject *pair) {
    Py_ssize_t point;
    PyObject *layers;
    size_t n_layers = c->run.model->config.n_layers;
    if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "nO|p", &point, &layers, &to->before)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a capture is a tuple (point number, layer numbers, is before edits)");
        return -1;
    }
    if (point < 0 || point >= LP_N_POINTS)
        return lp_refuse(c->state, LP_EARG, "there is no point number %zd: there are %d", point, LP_N_POINTS);
    to->point = (lp_point)point;
    if (!lp_model_has(c->run.model, to->point))
        return lp_refuse(c->state, LP_EARG, "the model has no %s", lp_point_name(to->point));
    if (!(to->layers = sizes_from(layers, &to->n_layers))) return -1;
    size_t end = lp_point_per_layer(to->point) ? n_layers : 1;
    for (size_t i = 0; i < to->n_layers; i++) {
        if (to->layers[i] < end) continue;
        return lp_refuse(c->state, LP_EARG, "%s has no layer %zu: there are %zu", lp_point_name(to->point),
                         to->layers[i], end);
    }
    return 0;
}

static int take_captures(call *c, PyObject *points) {
    PyObject *tuple = PySequence_Tuple(points);
    if (!tuple) return -1;
    size_t n = (size_t)PyTuple_Size(tuple);
    int failed = 0;
    c->captures = PyMem_Calloc(n ? n : 1, sizeof *c->captures);
    if (!c->captures) {
        PyErr_NoMemory();
        failed = -1;
    } else {
        c->n_captures = n; /* call_free accepts those that are still zero */
    }
    for (size_t i = 0; !failed && i < n; i++)
        failed = take_capture(c, &c->captures[i], PyTuple_GetItem(tuple, (Py_ssize_t)i));
    Py_DECREF(tuple);
    return failed;
}

static int request_values(call *c) {
    for (size_t i = 0; i < c->n_captures; i++) {
        const capture *to = &c->captures[i];
        for (size_t j = 0; j < to->n_layers; j++) {
            if (to->before) {
                c->n_kept++;
                continue;
            }
            if (!lp_run_request(&c->run, to->point, to->layers[j])) continue;
            return lp_refuse(c->state, LP_EARG, "%s of layer %zu is requested twice", lp_point_name(to->point),
                             to->layers[j]);
        }
    }
    return 0;
}

/* Edits, and copies of what is kept before them. */
static int take_edits(call *c) {
    lp_error err;
    size_t n = 0;
    if (c->edits == Py_None && !c->n_kept) return 0;
    if (lp_edit_list_take(&c->list, c->state, c->edits, c->changed, c->n_kept)) return -1;
    for (size_t i = 0; i < c->n_captures; i++)
        for (size_t j = 0; c->captures[i].before && j < c->captures[i].n_layers; j++)
            c->list.edits[c->list.n + n++] =
                (lp_edit){.op = LP_EDIT_KEEP, .point = c->captures[i].point, .layer = c->captures[i].layers[j]};
    if (!lp_run_edit(&c->run, c->list.edits, c->list.n + n, &err)) return 0;
    lp_raise(c->state, &err);
    return -1;
}

/* "(x: 4096 bytes, logits: 513024 bytes, scratch: 1048576 bytes)", as far as it fits. */
static void list_sizes(const call *c, size_t scratch, char *text, size_t size) {
    size_t at = 0;
    for (size_t i = 0; i < c->n_captures && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s: %zu bytes, ", lp_point_name(c->captures[i].point),
                               c->captures[i].n_bytes);
    if (at < size) at += (size_t)snprintf(text + at, size - at, "scratch: %zu bytes", scratch);
    if (at < size && c->cache_bytes) snprintf(text + at, size - at, ", caches: %zu bytes", c->cache_bytes);
}

/* What the caches grow by. */
static int size_caches(call *c) {
    for (size_t s = 0; c->caches && s < c->n_seqs; s++) {
        size_t n_tokens = c->run.n_past[s] + c->seq_start[s + 1] - c->seq_start[s], capacity, n_bytes;
        if (!c->caches[s]) continue;
        if (lp_cache_growth(c->caches[s], n_tokens, &capacity, &n_bytes) ||
            lp_size_add(&c->cache_bytes, c->cache_bytes, n_bytes))
            return lp_refuse(c->state, LP_ENOMEM, "a cache of %zu tokens has more bytes than there are addresses",
                             n_tokens);
    }
    return 0;
}

/* Makes the plan, and sums all sizes. */
static int plan_run(call *c) {
    lp_error err;
    if (lp_run_plan(&c->run, &err)) {
        lp_raise(c->state, &err);
        return -1;
    }
    if (size_caches(c)) return -1;
    int overflow = lp_size_add(&c->n_bytes, c->run.plan->scratch_bytes, c->cache_bytes) ||
                   lp_size_add(&c->n_bytes, c->n_bytes, lp_edit_list_bytes(&c->list));
    for (size_t i = 0; i < c->n_captures; i++) {
        capture *to = &c->captures[i];
        int too_big = overflow || lp_run_size(&c->run, to->point, &to->n_floats) ||
                      lp_size_mul3(&to->n_bytes, to->n_layers, to->n_floats, sizeof(float)) ||
                      lp_size_add(&c->n_bytes, c->n_bytes, to->n_bytes) || to->n_bytes > PY_SSIZE_T_MAX;
        if (!too_big) continue;
        return lp_refuse(c->state, LP_ENOMEM, "%s of %zu layers for %zu tokens has more bytes than there are addresses",
                         lp_point_name(to->point), to->n_layers, c->run.n_tokens);
    }
    return 0;
}

static int check_memory(call *c) {
    char sizes[320];
    if (lp_memory_fits(c->n_bytes, c->run.model->arena)) return 0;
    list_sizes(c, c->run.plan->scratch_bytes, sizes, sizeof sizes);
    lp_raise_new(c->state, LP_ENOMEM,
                 "the run needs %zu bytes and %zu are free; request fewer points, layers or tokens (%s)", c->n_bytes,
                 lp_limits_memory(), sizes);
    return -1;
}

/* Without the GIL, as what follows. */
static int grow_caches(call *c, lp_error *err) {
    for (size_t s = 0; s < c->n_caches; s++) {
        size_t n_tokens = c->seq_start[s + 1] - c->seq_start[s];
        if (c->caches[s] && lp_cache_reserve(c->caches[s], c->run.n_past[s] + n_tokens, &c->run.parallel, err))
            return -1;
    }
    return 0;
}

static int make_arrays(call *c, lp_error *err) {
    lp_edit *kept = c->list.edits + c->list.n;
    for (size_t i = 0; i < c->n_captures; i++) {
        capture *to = &c->captures[i];
        int stopped = lp_block_make(&to->block, to->n_bytes, c->run.model->arena, &c->run.parallel);
        if (stopped > 0) return lp_fail(err, LP_ECANCELED, "the run was stopped before its first step");
        if (stopped)
            return lp_fail(err, LP_ENOMEM, "%s of %zu layers needs %zu bytes, which the system refused",
                           lp_point_name(to->point), to->n_layers, to->n_bytes);
        float *data = to->block.data;
        for (size_t j = 0; j < to->n_layers; j++) {
            float *place = data + j * to->n_floats;
            if (to->before)
                kept++->keep = place;
            else
                lp_run_set_place(&c->run, to->point, to->layers[j], place);
        }
    }
    return 0;
}

static int compute(call *c) {
    lp_error err;
    lp_poll poll;
    c->run.parallel.poll = lp_poll_python;
    c->run.parallel.poll_arg = &poll;
    lp_edit_list_begin(&c->list, &poll);
    lp_poll_begin(&poll, report, c);
    int failed = grow_caches(c, &err) || make_arrays(c, &err);
    lp_profile_lap(c->run.profile, LP_STAGE_MEMORY);
    failed = failed || lp_forward(&c->run, &err);
    lp_poll_end(&poll);
    if (failed) lp_raise(c->state, &err);
    lp_edit_list_count(&c->list);
    failed = failed || PyErr_CheckSignals() || report(c);
    if (!lp_observation_end(&c->observation, failed, &err)) return failed ? -1 : 0;
    PyErr_Clear(); /* the cause is that of the statistics */
    lp_raise(c->state, &err);
    return -1;
}

static PyObject *list_arrays(call *c) {
    PyObject *list = PyList_New((Py_ssize_t)c->n_captures);
    for (size_t i = 0; list && i < c->n_captures; i++) {
        capture *to = &c->captures[i];
        npy_intp shape[2] = {(npy_intp)to->n_layers, (npy_intp)to->n_floats};
        PyObject *array = lp_array_from_block(&to->block, 2, shape);
        if (!array || PyList_SetItem(list, (Py_ssize_t)i, array)) Py_CLEAR(list);
    }
    return list;
}

static void call_free(call *c) {
    for (size_t i = 0; i < c->n_captures; i++) {
        lp_block_free(&c->captures[i].block);
        PyMem_Free(c->captures[i].layers);
    }
    lp_observation_free(&c->observation);
    PyMem_Free(c->captures);
    lp_edit_list_free(&c->list);
    lp_branch_args_free(&c->branch);
    lp_caches_release(c->caches, c->n_caches);
    Py_XDECREF(c->cache_objects);
    PyMem_Free(c->seq_start);
    Py_XDECREF(c->ids);
}

/* Plans the run, then returns the result of `work`. The core checks the ids and sequences. */
static PyObject *plan_call(call *c, const lp_model *model, PyObject *points, size_t n_threads,
                           PyObject *(*work)(call *c)) {
    lp_error err;
    const int32_t *ids = PyArray_DATA((PyArrayObject *)c->ids);
    if (lp_run_init(&c->run, model, ids, c->seq_start, c->n_seqs, n_threads, &err)) return lp_raise(c->state, &err);
    c->run.profile = c->profile;
    c->run.rope_length = c->rope_length;
    c->run.last_rows = c->last_rows;
    if (c->caches && lp_run_set_caches(&c->run, c->caches, &err)) {
        lp_run_free(&c->run);
        return lp_raise(c->state, &err);
    }
    int failed = lp_branch_args_set(&c->branch, c->state, &c->run) || take_captures(c, points) || request_values(c) ||
                 take_edits(c) || lp_observation_begin(&c->observation, c->state, &c->run) || plan_run(c);
    lp_profile_lap(c->run.profile, LP_STAGE_PLAN);
    PyObject *result = failed ? NULL : work(c);
    lp_run_free(&c->run);
    return result;
}

static PyObject *arrays(call *c) {
    PyObject *list = check_memory(c) || compute(c) ? NULL : list_arrays(c);
    if (list) lp_run_keep(&c->run);
    return list;
}

/* The result of `work`, timed if `profile` is not NULL. */
static PyObject *run(PyObject *self, PyObject *args, PyObject *kwargs, lp_profile *profile,
                     PyObject *(*work)(call *c)) {
    static char *keys[] = {"token_ids", "seq_start", "points",    "n_threads", "progress", "rope_length", "edits",
                           "changed",   "caches",    "last_rows", "observer",  "branch",   NULL};
    PyObject *token_ids, *seq_start, *points, *progress = Py_None, *caches = Py_None, *result = NULL;
    PyObject *observer = Py_None, *branch = Py_None;
    Py_ssize_t n_threads = 0, rope_length = 0;
    call c = {.state = PyType_GetModuleState(Py_TYPE(self)), .profile = profile, .edits = Py_None, .changed = Py_None};
    lp_profile_start(profile);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|$nOnOOOpOO:run", keys, &token_ids, &seq_start, &points,
                                     &n_threads, &progress, &rope_length, &c.edits, &c.changed, &caches, &c.last_rows,
                                     &observer, &branch))
        return NULL;
    if (rope_length < 0) return lp_raise_new(c.state, LP_EARG, "rope_length is %zd", rope_length);
    c.rope_length = (size_t)rope_length;
    if (n_threads < 1) return lp_raise_new(c.state, LP_EARG, "n_threads is %zd, must be at least 1", n_threads);
    c.progress = progress == Py_None ? NULL : progress;
    n_threads = n_threads < LP_MAX_THREADS ? n_threads : LP_MAX_THREADS;
    if (branch != Py_None && (caches != Py_None || observer != Py_None))
        return lp_raise_new(c.state, LP_EARG,
                            "a branch reads the cache of its base and appends to none; it has no observer");
    if (!take_tokens(&c, token_ids, seq_start) && !take_caches(&c, caches) &&
        !lp_observation_take(&c.observation, c.state, observer) && !lp_branch_args_take(&c.branch, c.state, branch))
        result = plan_call(&c, ((lp_model_object *)self)->model, points, (size_t)n_threads, work);
    call_free(&c);
    return result;
}

PyObject *lp_model_object_run(PyObject *self, PyObject *args, PyObject *kwargs) {
    return run(self, args, kwargs, NULL, arrays);
}

static PyObject *list_stages(const lp_profile *profile) {
    PyObject *list = PyList_New(LP_N_STAGES);
    for (int i = 0; list && i < LP_N_STAGES; i++) {
        const lp_stage_work *s = &profile->stages[i];
        PyObject *row = Py_BuildValue("(sdnddd)", lp_stage_name((lp_stage)i), (double)s->ns / 1e9,
                                      (Py_ssize_t)s->n_laps, s->flops, s->weight_bytes, s->value_bytes);
        if (!row || PyList_SetItem(list, i, row)) Py_CLEAR(list);
    }
    return list;
}

PyObject *lp_model_object_profile(PyObject *self, PyObject *args, PyObject *kwargs) {
    lp_profile profile;
    PyObject *list = run(self, args, kwargs, &profile, arrays), *stages = list ? list_stages(&profile) : NULL;
    PyObject *both = stages ? PyTuple_Pack(2, list, stages) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(stages);
    return both;
}

/* ---- the plan ---- */

/* [(point, where, bytes)] of a step */
static PyObject *list_values(const lp_run *r, const lp_step *s) {
    static const char *const where[] = {"", "array", "scratch"};
    PyObject *list = PyList_New(0);
    for (lp_point p = s->first; list && p <= s->last && p < LP_N_POINTS; p++) {
        const lp_value *v = lp_plan_value(r->plan, s->layer, p);
        size_t n = 0;
        if (!lp_points_has(&s->points, p)) continue;
        if (v->where != LP_NOWHERE) lp_request_floats(&r->plan->request, p, lp_plan_rows(r->plan, v), &n);
        PyObject *row = Py_BuildValue("(ssn)", lp_point_name(p), where[v->where], (Py_ssize_t)(n * sizeof(float)));
        if (!row || PyList_Append(list, row)) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *list_plan(call *c) {
    const lp_plan *plan = c->run.plan;
    PyObject *list = PyList_New((Py_ssize_t)plan->n_steps);
    for (size_t i = 0; list && i < plan->n_steps; i++) {
        const lp_step *s = &plan->steps[i];
        int in_layer = s->first < LP_N_POINTS && lp_point_per_layer(s->first);
        PyObject *row = Py_BuildValue("(nsNn)", in_layer ? (Py_ssize_t)s->layer : -1, lp_stage_name(s->stage),
                                      list_values(&c->run, s), (Py_ssize_t)lp_plan_weight_bytes(plan, s));
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row)) Py_CLEAR(list);
    }
    return list ? Py_BuildValue("(Nnn)", list, (Py_ssize_t)plan->value_bytes, (Py_ssize_t)plan->scratch_bytes) : NULL;
}

PyObject *lp_model_object_plan(PyObject *self, PyObject *args, PyObject *kwargs) {
    return run(self, args, kwargs, NULL, list_plan);
}
