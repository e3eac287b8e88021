/* What this process allows: asked before anything else of the package is loaded, in any interpreter. In C, as
 * modules of Cython load in one interpreter alone. */
#include <Python.h>

#include "cpu_features.h"

static PyObject *level(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    return PyLong_FromLong(cpu_level());
}

static PyObject *in_main_interpreter(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    return PyBool_FromLong(PyInterpreterState_GetID(PyInterpreterState_Get()) == 0);
}

static PyMethodDef methods[] = {
    {"level", level, METH_NOARGS,
     "The instruction sets that the machine and its operating system allow: 0 baseline, 1 avx2, 2 avx512, 3 avx512bf16."},
    {"in_main_interpreter", in_main_interpreter, METH_NOARGS,
     "Whether this is the interpreter that the process began with."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters /* from 3.12 on */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* from 3.13 on */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_cpu",
    .m_doc = "What this process allows.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__cpu(void)
{
    return PyModuleDef_Init(&definition);
}
