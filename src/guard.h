/* What protects shared fields where Python has no GIL. With a GIL all of it but the atomic numbers is
 * nothing at run time.
 *
 * (a) Between guard_lock() and guard_unlock() stand plain fields alone: no call of Python, which could
 *     wait for another thread, run a finalizer, or be where a fork finds the guard taken.
 * (b) Between object_lock() and object_unlock() nothing else of this object runs, unless what stands
 *     there waits for another lock.
 * (c) Users' lists and dicts may change at any moment in another thread. What they hold is compared
 *     by address with objects that are held elsewhere, and never followed. */
#ifndef CYOPTIM_GUARD_H
#define CYOPTIM_GUARD_H

#include <Python.h>
#include <stdatomic.h>

#ifdef Py_GIL_DISABLED

enum { FREE_THREADED = 1 };

typedef PyMutex Guard; /* all zeros: unlocked */
static inline void guard_lock(Guard *guard) { PyMutex_Lock(guard); }
static inline void guard_unlock(Guard *guard) { PyMutex_Unlock(guard); }

typedef PyCriticalSection ObjectGuard;
static inline void object_lock(ObjectGuard *guard, PyObject *object) { PyCriticalSection_Begin(guard, object); }
static inline void object_unlock(ObjectGuard *guard) { PyCriticalSection_End(guard); }

/* The address of a list's item, to be compared; NULL past the end. */
static inline const void *item_address(PyObject *list, Py_ssize_t i)
{
    PyObject *item;
    if (i >= PyList_GET_SIZE(list)) return NULL;
    item = PyList_GetItemRef(list, i);
    if (item == NULL) PyErr_Clear(); /* the list has just become shorter */
    Py_XDECREF(item);
    return item;
}

/* The address of a dict's value, to be compared; NULL if there is none. */
static inline const void *value_address(PyObject *dict, PyObject *key)
{
    PyObject *value;
    if (PyDict_GetItemRef(dict, key, &value) < 0) PyErr_Clear();
    Py_XDECREF(value);
    return value;
}

#else

enum { FREE_THREADED = 0 };

typedef char Guard;
static inline void guard_lock(Guard *guard) { (void)guard; }
static inline void guard_unlock(Guard *guard) { (void)guard; }

typedef char ObjectGuard;
static inline void object_lock(ObjectGuard *guard, PyObject *object) { (void)guard, (void)object; }
static inline void object_unlock(ObjectGuard *guard) { (void)guard; }

static inline const void *item_address(PyObject *list, Py_ssize_t i)
{
#ifdef Py_LIMITED_API /* which has functions for these alone */
    return i < PyList_Size(list) ? PyList_GetItem(list, i) : NULL;
#else
    return i < PyList_GET_SIZE(list) ? PyList_GET_ITEM(list, i) : NULL;
#endif
}

static inline const void *value_address(PyObject *dict, PyObject *key)
{
    return PyDict_GetItem(dict, key);
}

#endif

/* A number that any thread may read and write at any moment, and that orders nothing else. */
typedef struct {
    atomic_llong value;
} SharedNumber;

static inline long long shared_read(SharedNumber *number)
{
    return atomic_load_explicit(&number->value, memory_order_relaxed);
}

/* One more; the result, which no other call gets. */
static inline long long shared_next(SharedNumber *number)
{
    return atomic_fetch_add_explicit(&number->value, 1, memory_order_relaxed) + 1;
}

static inline void shared_write(SharedNumber *number, long long value)
{
    atomic_store_explicit(&number->value, value, memory_order_relaxed);
}

#endif
