"""The implementation of :mod:`cyoptim.checkpoint`, from objects to disk and back.

========================  ==========================================================================
``places``                types of objects, their places, and their names in messages
``packing``               objects to JSON and named arrays, and back: the same for every format
``parts``                 arrays of which several processes have parts, and gaps for them in a file
``npz``, ``safetensors``  JSON and named arrays to bytes, and back: one class per format
``files``                 bytes to disk: a file is replaced atomically
``sources``               arrays of large files, read into their places at last
``matching``              compares names and arrays of a file with those of the objects
``generators``            the state of a random generator, checked before NumPy sees it
``restoring``             restores objects from a file, all or nothing
``ranks``                 calls of several processes that share an optimizer
``single``                one file: ``save`` and ``load``
``series``                numbered checkpoints in a folder
========================  ==========================================================================

Neither format contains a pickle, or anything else that runs when it is read.
"""
