# Where an optimizer's new arrays are, if not in ordinary memory: file_memory.h.

cdef extern from "file_memory.h":
    object file_memory_new(object folder, size_t least)
    int file_memory_error(object capsule) except? -1
    object use_allocator(object capsule)


cdef class Files:
    """Memory in mapped files of a folder, for arrays of at least so many bytes.

    Parameters
    ----------
    folder : str
        An absolute path.
    least : int
        Smaller arrays are ordinary memory.
    """

    cdef readonly str folder
    cdef object allocator       # NumPy's capsule

    def __init__(self, str folder not None, size_t least):
        self.folder = folder
        self.allocator = file_memory_new(folder, least)

    cdef int refuse_to_fill_the_disk(self) except -1:
        """Raise if the last array could not be made because of the disk."""
        cdef int error = file_memory_error(self.allocator)
        if error:
            raise disk_error(error, self.folder)
        return 0


cdef object disk_error(int error, str folder):
    if os.name == "nt":
        return OSError(None, "no file for the state of an optimizer", folder, error)
    return OSError(error, f"{os.strerror(error)}: no file for the state of an optimizer", folder)
