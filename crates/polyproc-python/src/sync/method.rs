//! Methods that CPython calls without anything between, for what takes a few nanoseconds: see [`super::entry`].

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

/// A method against the C API, as CPython reads it.
pub struct Method(UnsafeCell<ffi::PyMethodDef>);
// SAFETY: CPython only reads it.
unsafe impl Sync for Method {}

impl Method {
    pub const fn new(name: &'static CStr, call: ffi::PyMethodDefPointer, flags: c_int, doc: &'static CStr) -> Method {
        Method(UnsafeCell::new(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: call,
            ml_flags: flags,
            ml_doc: doc.as_ptr(),
        }))
    }
}

/// Gives the methods to a class.
pub fn add(class: &Bound<'_, PyType>, methods: &'static [Method]) -> PyResult<()> {
    for method in methods {
        let definition = method.0.get();
        // SAFETY: a live class, and a definition that lives as long as the program.
        let method = unsafe {
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            Bound::from_owned_ptr_or_err(class.py(), descriptor)?
        };
        class.setattr(method.getattr("__name__")?.cast_into::<PyString>()?, method)?;
    }
    Ok(())
}

/// Called attached only.
#[inline]
pub fn new_true() -> *mut PyObject {
    // SAFETY: attached; True lives for ever.
    unsafe { ffi::Py_NewRef(ffi::Py_True()) }
}

/// Called attached only.
#[inline]
pub fn new_none() -> *mut PyObject {
    // SAFETY: attached; None lives for ever.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}
