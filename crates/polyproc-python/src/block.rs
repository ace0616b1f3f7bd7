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

/// Bytes from which copying is not done with the interpreter held.
pub const MUCH: usize = 128 * 1024;

/// Memory of the session that this process holds, through the buffer protocol: ``memoryview(block)``.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Block {
    lease: Lease,
}

impl Block {
    /// From now on Python's: a fork passes it on to the child.
    pub fn new(py: Python<'_>, lease: Lease) -> PyResult<Bound<'_, Block>> {
        Bound::new(py, Block { lease: lease.keep() })
    }
}

#[pymethods]
impl Block {
    /// Allocates `size` bytes, whose contents are not defined.
    #[new]
    fn allocate(size: usize) -> PyResult<Block> {
        Lease::allocate(size).map(|lease| Block { lease: lease.keep() }).map_err(errors::raise)
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
    // SAFETY: with no bytes given it makes a new object of this size, or gives null.
    let object = unsafe {
        let object = ffi::PyBytes_FromStringAndSize(ptr::null(), lease.len().cast_signed());
        Bound::from_owned_ptr_or_err(py, object)?
    };
    let bytes = object.cast_into::<PyBytes>()?;
    // SAFETY: a bytes object, new and only ours, of the lease's length: it may be written to until it is given out.
    unsafe { copy_out(py, lease, ffi::PyBytes_AsString(bytes.as_ptr()).cast()) };
    Ok(bytes)
}

/// A copy of a lease's bytes as a `bytearray`.
pub fn to_bytearray<'py>(py: Python<'py>, lease: &Lease) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: with no bytes given it makes a new object of this size, or gives null.
    let object = unsafe {
        let object = ffi::PyByteArray_FromStringAndSize(ptr::null(), lease.len().cast_signed());
        Bound::from_owned_ptr_or_err(py, object)?
    };
    let array = object.cast_into::<PyByteArray>()?;
    // SAFETY: as above.
    unsafe { copy_out(py, lease, ffi::PyByteArray_AsString(array.as_ptr()).cast()) };
    Ok(array)
}

/// Copies the lease's bytes to `target`.
///
/// # Safety
/// `target` must have room for them, and nobody else may use it.
unsafe fn copy_out(py: Python<'_>, lease: &Lease, target: *mut u8) {
    struct Target(*mut u8);
    // SAFETY: the memory behind it is this call's alone.
    unsafe impl Send for Target {}

    let target = Target(target);
    let copy = move || {
        let Target(target) = { target };
        // SAFETY: the lease's memory is mapped for its length. A process that breaks the rules may write to it meanwhile:
        // that can change the bytes and nothing else, as they are copied once, and only as bytes.
        unsafe { ptr::copy_nonoverlapping(lease.as_ptr(), target, lease.len()) };
    };
    lease.populate();
    if lease.len() >= MUCH { py.detach(copy) } else { copy() }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Block>()
}
