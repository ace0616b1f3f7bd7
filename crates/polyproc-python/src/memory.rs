//! Memory that several processes see at the same time, through the buffer protocol: the ground of `Value` and `Array`.
//!
//! Unlike a [`crate::block::Block`] it is not private to its holder: what one process writes, all see, a forked child
//! too. The last process that lets go of it gives it back.

use std::ffi::c_int;

use polyproc_engine::shm::Memory as Shared;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::block::MUCH;
use crate::{errors, sharing};

/// Memory of the session that several processes read and write: ``memoryview(memory)``.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Memory {
    pub shared: Shared,
}

#[pymethods]
impl Memory {
    /// Allocates `size` bytes: all zero, or else not defined.
    #[new]
    #[pyo3(signature = (size, zero = true))]
    fn allocate(py: Python<'_>, size: usize, zero: bool) -> PyResult<Memory> {
        let make = || if zero { Shared::allocate(size) } else { Shared::uninitialised(size) };
        let made = if size >= MUCH { py.detach(make) } else { make() };
        Ok(Memory { shared: made.map_err(errors::raise)? })
    }

    /// Where it lies in this process.
    #[getter]
    fn _address(&self) -> usize {
        self.shared.as_ptr() as usize
    }

    /// What `_share()` named, in this or another process.
    #[staticmethod]
    fn _attach(shared: &[u8]) -> PyResult<Memory> {
        let handle = sharing::received(shared)?;
        Ok(Memory { shared: Shared::from_handle(handle).map_err(errors::raise)? })
    }

    /// The bytes that name it, for a child or a message that is being pickled.
    fn _share<'py>(&self, py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyBytes>> {
        sharing::share(py, self.shared.hold(), class)
    }

    fn __len__(&self) -> usize {
        self.shared.len()
    }

    /// # Safety
    /// Called by CPython with a view to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill in"));
        }
        let shared = &slf.get().shared;
        // SAFETY: `view` is CPython's, to be filled in here; it takes a reference to `slf`, which holds the memory, so it
        // stays mapped for as long as the view lives. That others write to it meanwhile is what it is for; Rust never
        // makes a reference to the bytes.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), shared.as_ptr().cast(), shared.len().cast_signed(), 0, flags)
        };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Memory>()
}
