/* Questions about arrays that a step asks once per parameter: on borrowed pointers, without counting
 * references, because with many small parameters they are most of its time. */
#ifndef CYOPTIM_ARRAYS_H
#define CYOPTIM_ARRAYS_H

#include <Python.h>
#include <numpy/arrayobject.h>

#ifdef Py_LIMITED_API /* which has functions for these alone */
#define PyList_GET_SIZE PyList_Size
#define PyList_GET_ITEM PyList_GetItem
#endif

/* Whether an object is a plain array just like this one: the same dtype object, shape and C order.
 * 0 does not mean that they differ: a slower look may find them alike. */
static inline int array_is_just_like(PyObject *view, PyObject *object)
{
    PyArrayObject *a = (PyArrayObject *)view, *b = (PyArrayObject *)object;
    const int needed = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED;
    int axis, ndim = PyArray_NDIM(a);
    if (!PyArray_CheckExact(object) || PyArray_NDIM(b) != ndim
        || (PyArray_FLAGS(a) & PyArray_FLAGS(b) & needed) != needed
        || PyArray_DESCR(a) != PyArray_DESCR(b)) {
        return 0;
    }
    for (axis = 0; axis < ndim; axis++) {
        if (PyArray_DIM(a, axis) != PyArray_DIM(b, axis)) {
            return 0;
        }
    }
    return 1;
}

/* The record of an array whose memory is trusted from then on. */
typedef struct {
    const void *address;
    const void *dtype; /* compared, never followed: arrays that are alike share the object */
    npy_intp size;     /* elements */
} ArrayTrace;

enum { ARRAY_LAYOUT = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE };

static inline npy_intp array_size(PyObject *array)
{
    PyArrayObject *a = (PyArrayObject *)array;
    npy_intp size = 1;
    int axis, ndim = PyArray_NDIM(a);
    for (axis = 0; axis < ndim; axis++) size *= PyArray_DIM(a, axis);
    return size;
}

static inline int array_layout(PyObject *array)
{
    return PyArray_FLAGS((PyArrayObject *)array) & ARRAY_LAYOUT;
}

static inline void array_trace(PyObject *array, ArrayTrace *trace)
{
    trace->address = PyArray_DATA((PyArrayObject *)array);
    trace->dtype = PyArray_DESCR((PyArrayObject *)array);
    trace->size = array_size(array);
}

/* Whether an array still is what it was: an array can be resized, retyped or laid out anew in place. */
static inline int array_is_as_it_was(PyObject *array, const ArrayTrace *trace)
{
    PyArrayObject *a = (PyArrayObject *)array;
    return PyArray_DATA(a) == trace->address && (const void *)PyArray_DESCR(a) == trace->dtype
           && array_size(array) == trace->size;
}

static inline int array_is_writable(PyObject *array)
{
    return PyArray_FLAGS((PyArrayObject *)array) & NPY_ARRAY_WRITEABLE;
}

static inline char *array_data(PyObject *array)
{
    return (char *)PyArray_DATA((PyArrayObject *)array);
}

#endif
