# Updates of buffers, which say what they are: everything is checked before the first element changes.


cdef struct Buffers:
    Py_buffer views[MAX_STREAMS]
    int count               # of views that are to be released


cdef object update_buffers(Kernel kernel, tuple objects):
    """One update of parameter, gradient and state."""
    cdef Buffers buffers
    cdef void *arrays[MAX_STREAMS]
    cdef int k, dtype
    cdef Py_ssize_t size
    labels = ("param", "grad", *kernel.state_names)
    if len(objects) != len(labels):
        raise TypeError(
            f"{type(kernel.optimizer).__name__} updates {', '.join(labels)}: expected {len(labels)} "
            f"buffers in this order, got {len(objects)}"
        )
    buffers.count = 0
    try:
        for label, value in zip(labels, objects):
            take_buffer(&buffers, label, value)
        dtype = check_buffers(&buffers, labels)
        if not own(kernel).begun:
            raise RuntimeError("no step has begun: call kernel.begin() before the updates of each step")
        size = buffers.views[0].len // (sizeof(float) if dtype == FLOAT32 else sizeof(double))
        for k in range(buffers.count):
            arrays[k] = buffers.views[k].buf
        with nogil:
            run_update(own(kernel), arrays, dtype, size)
    finally:
        for k in range(buffers.count):
            PyBuffer_Release(&buffers.views[k])


cdef int take_buffer(Buffers *buffers, str label, object value) except -1:
    try:
        # Not asking for memory to be written: exporters differ in how they refuse.
        PyObject_GetBuffer(value, &buffers.views[buffers.count], PyBUF_FULL_RO)
    except (TypeError, BufferError, ValueError) as error:
        raise TypeError(
            f"{label} is a {type(value).__name__} without a buffer of numbers: expected a memoryview, "
            f"array.array, NumPy array or ctypes array{buffer_hint(value)}"
        ) from error
    buffers.count += 1
    return 0


cdef str buffer_hint(object value):
    if isinstance(value, Parameter):
        return "; write param.data"
    if hasattr(value, "detach"):
        return "; write tensor.detach().numpy()"
    if hasattr(value, "__array_interface__"):       # of a type that buffers do not have
        return " of float32 or float64; write x.astype('f')"
    return "; write np.asarray(x)" if hasattr(value, "__array__") else ""


cdef int check_buffers(Buffers *buffers, tuple labels) except -1:
    """The dtype of all buffers."""
    cdef int k, j, dtype = dtype_of(&buffers.views[0], "param")
    cdef bint pairs = number_code(&buffers.views[0]).startswith("Z")
    cdef Py_buffer *view
    cdef uintptr_t begin, end
    for k in range(buffers.count):
        view, label = &buffers.views[k], labels[k]
        code = number_code(view)
        if dtype_of(view, label) != dtype or code.startswith("Z") != pairs:
            raise TypeError(
                f"{label} has elements of format {code!r}, expected "
                f"{number_code(&buffers.views[0])!r} as param"
            )
        if shape_of(view) != shape_of(&buffers.views[0]):
            raise ValueError(
                f"{label} has shape {shape_of(view)}, expected {shape_of(&buffers.views[0])} as param"
            )
        if not PyBuffer_IsContiguous(view, b"C"):
            raise ValueError(
                f"{label} is not contiguous in C order, strides {strides_of(view)}: an update takes "
                "contiguous memory, or several updates its parts"
            )
        if k != 1 and view.readonly:
            raise ValueError(f"{label} is read-only, and an update writes to it")
        begin = <uintptr_t>view.buf
        if begin % (sizeof(float) if dtype == FLOAT32 else sizeof(double)):
            raise ValueError(f"{label} is not aligned: it begins at address {begin}")
        for j in range(k):
            end = <uintptr_t>buffers.views[j].buf + buffers.views[j].len
            if begin < end and <uintptr_t>buffers.views[j].buf < begin + view.len:
                raise ValueError(f"{label} and {labels[j]} share memory, which an update must not")
    return dtype


cdef tuple shape_of(Py_buffer *view):
    return tuple([view.shape[k] for k in range(view.ndim)])


cdef tuple strides_of(Py_buffer *view):
    return tuple([view.strides[k] for k in range(view.ndim)])


cdef str number_code(Py_buffer *view):
    """The format of an element without the mark of this machine's byte order."""
    code = "B" if view.format == NULL else (<bytes>view.format).decode()
    return code[1:] if code[:1] in ("@", "=", NATIVE) else code


cdef int dtype_of(Py_buffer *view, str label) except -1:
    code = number_code(view)
    if code in ("f", "Zf"):
        return FLOAT32
    if code in ("d", "Zd"):
        return FLOAT64
    hint = "; write memoryview(x).cast('f') or .cast('d')" if code in ("B", "b", "c") else ""
    raise TypeError(
        f"{label} has elements of format {code!r}, expected 'f' (float32), 'd' (float64), or complex of "
        f"these{hint}"
    )
