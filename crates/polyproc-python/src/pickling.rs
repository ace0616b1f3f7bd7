//! Pickle, by way of `polyproc._pickling`: the bytes, and the large buffers beside them.

use std::ffi::c_int;

use polyproc_engine::Handle;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList};

use crate::sharing;

/// A buffer that an object exports, contiguous and as plain bytes, for as long as this lives.
pub struct Export(Box<ffi::Py_buffer>);

// SAFETY: an export may be read from any thread; it is released only attached (see `Drop`).
unsafe impl Send for Export {}
// SAFETY: as above; nothing is written through it but where the exporter has allowed it (`bytes_mut`).
unsafe impl Sync for Export {}

impl Export {
    /// The bytes of anything with a contiguous buffer.
    ///
    /// # Errors
    /// `TypeError` or `BufferError`, in the words of the object.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Export> {
        Export::with_flags(object, ffi::PyBUF_SIMPLE)
    }

    /// The same, to be written to.
    ///
    /// # Errors
    /// As of [`Export::of`]; `BufferError` also for what is read only.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Export> {
        Export::with_flags(object, ffi::PyBUF_SIMPLE | ffi::PyBUF_WRITABLE)
    }

    fn with_flags(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Export> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: a live object and a view on the heap, which does not move while the export lasts.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Export(view))
    }

    pub fn start(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    pub fn len(&self) -> usize {
        self.0.len.cast_unsigned()
    }

    /// The bytes, to be copied into a message.
    ///
    /// The exporter keeps the memory in place while this lives. Another thread may write to it meanwhile, as with
    /// every buffer in Python: then the copy holds some of the old and some of the new bytes.
    pub fn bytes(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the export is alive and contiguous, so `len` bytes lie at `buf`; see above for writers.
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // SAFETY: filled in by PyObject_GetBuffer and released once, with the interpreter held.
        Python::attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut *self.0) });
    }
}

/// An object as pickle wrote it.
pub struct Pickled {
    pub body: Export,
    pub buffers: Vec<Export>,
    pub references: Vec<Handle>,
}

/// Pickles `object`; large buffers stay beside. What plain pickle refuses goes by value, where cloudpickle can do that.
pub fn dumps(object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let dumps = DUMPS.import(object.py(), "polyproc._pickling", "dumps")?;
    pickled(object, |beside| dumps.call1((object, beside)))
}

/// The same for what `function` has returned: it goes by value only if the function did.
pub fn dumps_result(object: &Bound<'_, PyAny>, function: &Bound<'_, PyAny>) -> PyResult<Pickled> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let dumps = DUMPS.import(object.py(), "polyproc._pickling", "dumps_result")?;
    pickled(object, |beside| dumps.call1((object, beside, function)))
}

fn pickled<'py>(
    object: &Bound<'py, PyAny>,
    dumps: impl FnOnce(&Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Pickled> {
    let beside = PyList::empty(object.py());
    let (body, references) = sharing::collect(|| dumps(&beside))?;
    let buffers = beside.iter().map(|buffer| Export::of(&buffer)).collect::<PyResult<_>>()?;
    Ok(Pickled { body: Export::of(&body)?, buffers, references })
}

/// Rebuilds an object from the pickle in `body` (anything with a buffer).
pub fn loads<'py>(body: &Bound<'py, PyAny>, buffers: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = body.py();
    let loads = LOADS.import(py, "polyproc._pickling", "loads")?;
    if buffers.is_empty() {
        return loads.call1((body,));
    }
    let options = PyDict::new(py);
    options.set_item("buffers", buffers)?;
    loads.call((body,), Some(&options))
}

/// Rebuilds an object from bytes that a program sent with `send_bytes()`.
pub fn loads_foreign<'py>(body: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(body.py(), "polyproc._pickling", "read_standard_pickle")?.call1((body,))
}

/// The object as one standard pickle, everything in band.
pub fn standard<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    DUMPS.import(object.py(), "polyproc._pickling", "standard_pickle")?.call1((object,))
}
