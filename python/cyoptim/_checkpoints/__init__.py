"""What is behind :mod:`cyoptim.checkpoint`, from the objects to the disk and back.

========================  ==========================================================================
``places``                what an object is, where it lies, and how messages speak of it
``packing``               objects to JSON and named arrays, and back: the same for every format
``npz``, ``safetensors``  JSON and named arrays to bytes, and back: one class a format
``files``                 bytes to the disk: a file is replaced whole or not at all
``matching``              names and arrays of a file against those of the objects: what differs
``generators``            the state of a random generator, checked before NumPy sees it
``restoring``             what was saved into the objects, all or nothing
``single``                one file: ``save`` and ``load``
``series``                numbered checkpoints in a folder
========================  ==========================================================================

Neither format has a pickle in it, nor anything else that runs when it is read.
"""
