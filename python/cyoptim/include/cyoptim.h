/* cyoptim's rules for C and C++: one rule with its options, on raw pointers and without the GIL.
 *
 * A source file that includes this calls cyoptim_import() once, with the GIL, before anything else. It then
 * reaches all functions through the pointer `cyoptim`: cyoptim->begin_step(kernel). There is nothing to link.
 *
 * The table only grows at its end, and CYOPTIM_API_VERSION with it: what is compiled with one version of this
 * header runs with every later one. */
#ifndef CYOPTIM_H
#define CYOPTIM_H

#include <Python.h>
#include <stdint.h>

#define CYOPTIM_API_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* A cyoptim.kernel.Kernel. Whoever uses it keeps a reference to the Python object. */
typedef struct CyoptimKernel CyoptimKernel;

typedef struct {
    int32_t version; /* CYOPTIM_API_VERSION of the cyoptim that is installed */

    /* With the GIL: the kernel behind an object; NULL, and a TypeError, if it is none. */
    CyoptimKernel *(*kernel)(PyObject *object);

    /* Without the GIL. */
    int32_t (*array_count)(const CyoptimKernel *kernel); /* of an update: parameter, gradient, state */
    int64_t (*steps)(const CyoptimKernel *kernel);       /* that have begun */
    /* Multiply every gradient by it, from the next step on: to unscale, average or clip. */
    void (*set_grad_scale)(CyoptimKernel *kernel, double scale);
    /* Compute the scalars of the next step: once a step, by one thread. */
    void (*begin_step)(CyoptimKernel *kernel);
    /* Update `size` elements: arrays[0] is the parameter, arrays[1] the gradient, then the state in the order of
     * Kernel.state_names. They must not overlap. Several threads may update disjoint elements at a time. */
    void (*update_float32)(const CyoptimKernel *kernel, float **arrays, Py_ssize_t size);
    void (*update_float64)(const CyoptimKernel *kernel, double **arrays, Py_ssize_t size);
    /* `before` plus the sum of the squares, in double precision and a fixed order. */
    double (*sum_squares_float32)(const float *array, Py_ssize_t size, double before);
    double (*sum_squares_float64)(const double *array, Py_ssize_t size, double before);
} CyoptimAPI;

static const CyoptimAPI *cyoptim = NULL;

/* Find the functions of the installed cyoptim; 0, or -1 with a Python exception. */
static inline int cyoptim_import(void)
{
    PyObject *module = PyImport_ImportModule("cyoptim.kernel");
    PyObject *capsule = module == NULL ? NULL : PyObject_GetAttrString(module, "_C_API");
    Py_XDECREF(module);
    if (capsule == NULL) return -1;
    cyoptim = (const CyoptimAPI *)PyCapsule_GetPointer(capsule, "cyoptim.kernel._C_API");
    Py_DECREF(capsule); /* the table is part of the module, which stays */
    if (cyoptim != NULL && cyoptim->version < CYOPTIM_API_VERSION) {
        PyErr_Format(PyExc_ImportError, "this module was compiled for version %d of cyoptim.h, and the "
                     "cyoptim that is installed has version %d: install a newer one",
                     CYOPTIM_API_VERSION, (int)cyoptim->version);
        cyoptim = NULL;
    }
    return cyoptim == NULL ? -1 : 0;
}

/* Make a Kernel, with the GIL: cyoptim_new_kernel("Adam", Py_BuildValue("{s:d}", "lr", 0.01)). The reference to the
 * options, a dict or NULL, is taken over. A new reference, or NULL with a Python exception. */
static inline PyObject *cyoptim_new_kernel(const char *optimizer, PyObject *options)
{
    PyObject *package = PyImport_ImportModule("cyoptim"), *module = PyImport_ImportModule("cyoptim.kernel");
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, "Kernel");
    PyObject *rule = package == NULL ? NULL : PyObject_GetAttrString(package, optimizer);
    PyObject *arguments = rule == NULL ? NULL : PyTuple_Pack(1, rule);
    PyObject *kernel = type == NULL || arguments == NULL ? NULL : PyObject_Call(type, arguments, options);
    Py_XDECREF(package);
    Py_XDECREF(module);
    Py_XDECREF(type);
    Py_XDECREF(rule);
    Py_XDECREF(arguments);
    Py_XDECREF(options);
    return kernel;
}

#ifdef __cplusplus
}
#endif

#endif
