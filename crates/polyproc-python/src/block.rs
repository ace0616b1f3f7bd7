//! Received memory that Python holds: a lease on a block of the session, as an object with the buffer protocol.
//!
//! ```text
//! numpy array ──▶ Block ──▶ Lease ──▶ block of the session memory (mapped already, no copy)
//! ```
//!
//! The memory is private and writable, as what the standard library delivers. The last of the views that are made of
//! it gives the block back. A forked child is a holder of its own; what it writes, the parent does not see.

use std::ffi::c_int;
use std::ptr;

use polyproc_engine::shm::Lease;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::errors;

/// Memory of the session that this process holds, through the buffer protocol: ``memoryview(block)``.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Block {
    lease: Lease,
}

impl Block {
    pub fn new(py: Python<'_>, lease: Lease) -> PyResult<Bound<'_, Block>> {
        Bound::new(py, Block { lease })
    }
}

#[pymethods]
impl Block {
    /// Allocates `size` bytes, zeroed or not.
    #[new]
    fn allocate(size: usize) -> PyResult<Block> {
        Lease::allocate(size).map(|lease| Block { lease }).map_err(errors::raise)
    }

    fn __len__(&self) -> usize {
        self.lease.len()
    }

    /// # Safety
    /// Called by CPython with a view to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill in"));
        }
        let lease = &slf.get().lease;
        // SAFETY: `view` is CPython's, to be filled in here; it takes a reference to `slf`, which keeps the lease, so
        // the memory stays mapped for as long as the view lives.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), lease.as_ptr().cast(), lease.len().cast_signed(), 0, flags)
        };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// A copy of a lease's bytes as `bytes`.
pub fn to_bytes<'py>(py: Python<'py>, lease: &Lease) -> PyResult<Bound<'py, PyBytes>> {
    let (start, length) = (lease.as_ptr() as *const u8, lease.len());
    PyBytes::new_with(py, length, |copy| {
        // SAFETY: the lease's memory is mapped for `length` bytes; another process may write to it meanwhile, which
        // can change the bytes but nothing else: they are copied once, and only as bytes.
        unsafe { ptr::copy_nonoverlapping(start, copy.as_mut_ptr(), length) };
        Ok(())
    })
}

/// A copy of a lease's bytes as a `bytearray`.
pub fn to_bytearray<'py>(py: Python<'py>, lease: &Lease) -> PyResult<Bound<'py, PyByteArray>> {
    let (start, length) = (lease.as_ptr() as *const u8, lease.len());
    PyByteArray::new_with(py, length, |copy| {
        // SAFETY: as in `to_bytes`.
        unsafe { ptr::copy_nonoverlapping(start, copy.as_mut_ptr(), length) };
        Ok(())
    })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Block>()
}
