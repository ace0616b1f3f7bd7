//! `acquire`, `release` and `with` of the locks and semaphores, as functions that CPython calls without anything between.
//!
//! A lock that is free is acquired in a few nanoseconds; what PyO3 puts around every method (its own count of the
//! interpreter's lock, the unpacking of arguments) takes about as long again. So these four are written against the C API:
//! they first try without calling Python at all. Whatever else is to be done, waiting above all, is done through PyO3.

use std::ffi::CStr;
use std::ptr;

use polyproc_engine::Deadline;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::method::{self, Method, new_none, new_true};
use super::semlock::SemLock;
use crate::waiting;

const ACQUIRE: &CStr = c"acquire($self, /, block=True, timeout=None)\n--\n\n\
Acquires, waiting if need be: up to `timeout` seconds, or not at all if `block` is false. Tells whether it did.\n\n\
If the last holder died, it is acquired, with a ``polyproc.HolderDiedWarning``.";

const RELEASE: &CStr = c"release($self, /)\n--\n\n\
Releases.\n\n\
Raises ``ValueError`` if that is once too often, of an RLock ``AssertionError`` if another thread holds it.";

/// The lock behind `self`.
///
/// # Safety
/// Attached, and `slf` is a live SemLock: CPython checks that before it calls a method descriptor.
#[inline]
unsafe fn lock_of<'a>(slf: *mut PyObject) -> &'a SemLock {
    // SAFETY: see above. The object outlives the call, whose caller has a reference to it.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<SemLock>();
        &*ptr::from_ref(slf.get())
    }
}

/// `result` as CPython's caller gets it.
pub fn answer(py: Python<'_>, result: PyResult<bool>) -> *mut PyObject {
    match result {
        Ok(true) => new_true(),
        // SAFETY: attached, as `py` shows; False lives for ever.
        Ok(false) => unsafe { ffi::Py_NewRef(ffi::Py_False()) },
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

/// # Safety
/// Called by CPython, by the rules of METH_FASTCALL | METH_KEYWORDS.
unsafe extern "C" fn acquire(
    slf: *mut PyObject,
    arguments: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython's promise.
    let lock = unsafe { lock_of(slf) };
    if count == 0 && names.is_null() && lock.take_free() {
        return new_true();
    }
    // SAFETY: as this function's.
    unsafe { acquire_somehow(lock, arguments, count, names) }
}

/// # Safety
/// As of [`acquire`].
#[inline(never)]
unsafe fn acquire_somehow(
    lock: &SemLock,
    arguments: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    Python::attach(|py| {
        // SAFETY: CPython's promise about the arguments.
        let deadline = unsafe { parse(py, arguments, count, names) };
        answer(py, deadline.and_then(|deadline| if lock.take_free() { Ok(true) } else { lock.take(py, deadline, 1) }))
    })
}

/// `block` and `timeout` as a deadline.
///
/// # Safety
/// The arguments are those of a METH_FASTCALL | METH_KEYWORDS call.
unsafe fn parse(
    py: Python<'_>,
    arguments: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> PyResult<Deadline> {
    const MOST: usize = 2;
    let mut given: [Option<Borrowed<'_, '_, PyAny>>; MOST] = [None, None];
    let positional = count.cast_unsigned();
    // SAFETY: a tuple or null.
    let named = if names.is_null() { 0 } else { unsafe { ffi::PyTuple_Size(names) }.cast_unsigned() };
    if positional + named > MOST {
        let text = format!("acquire() takes at most {MOST} arguments ({} given)", positional + named);
        return Err(PyTypeError::new_err(text));
    }
    for index in 0..positional + named {
        // SAFETY: there are that many, all live for the call.
        let value = unsafe { Borrowed::from_ptr(py, *arguments.add(index)) };
        let place = if index < positional {
            index
        } else {
            // SAFETY: a name for each of the named arguments, all strings.
            let name = unsafe { ffi::PyTuple_GetItem(names, (index - positional).cast_signed()) };
            // SAFETY: `name` is a string.
            let is = |text: &CStr| unsafe { ffi::PyUnicode_CompareWithASCIIString(name, text.as_ptr()) } == 0;
            if is(c"block") {
                0
            } else if is(c"timeout") {
                1
            } else {
                // SAFETY: `name` is a live object.
                let name = unsafe { Borrowed::from_ptr(py, name) };
                let text = format!("{} is an invalid keyword argument for acquire()", name.repr()?);
                return Err(PyTypeError::new_err(text));
            }
        };
        if given[place].replace(value).is_some() {
            return Err(PyTypeError::new_err("acquire() got multiple values for an argument"));
        }
    }
    let [block, timeout] = given;
    let block = block.map_or(Ok(true), |block| block.is_truthy())?;
    let timeout = timeout.filter(|timeout| !timeout.is_none());
    waiting::blocking(block, timeout.as_deref())
}

/// # Safety
/// Called by CPython, by the rules of METH_NOARGS.
unsafe extern "C" fn enter(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython's promise.
    let lock = unsafe { lock_of(slf) };
    if lock.take_free() { new_true() } else { enter_somehow(lock) }
}

#[inline(never)]
pub fn enter_somehow(lock: &SemLock) -> *mut PyObject {
    Python::attach(|py| answer(py, lock.take(py, Deadline::Never, 1)))
}

/// # Safety
/// Called by CPython, by the rules of METH_NOARGS.
unsafe extern "C" fn release(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython's promise.
    let lock = unsafe { lock_of(slf) };
    if lock.give_taken() { new_none() } else { release_somehow(lock) }
}

#[inline(never)]
pub fn release_somehow(lock: &SemLock) -> *mut PyObject {
    Python::attach(|py| match lock.give() {
        Ok(()) => new_none(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    })
}

/// # Safety
/// Called by CPython, by the rules of METH_FASTCALL.
unsafe extern "C" fn exit(slf: *mut PyObject, _: *mut *mut PyObject, _: ffi::Py_ssize_t) -> *mut PyObject {
    // SAFETY: as for METH_NOARGS.
    unsafe { release(slf, ptr::null_mut()) }
}

static METHODS: [Method; 4] = [
    Method::new(
        c"acquire",
        ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: acquire },
        ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ACQUIRE,
    ),
    Method::new(c"release", ffi::PyMethodDefPointer { PyCFunction: release }, ffi::METH_NOARGS, RELEASE),
    Method::new(c"__enter__", ffi::PyMethodDefPointer { PyCFunction: enter }, ffi::METH_NOARGS, c""),
    Method::new(c"__exit__", ffi::PyMethodDefPointer { PyCFunctionFast: exit }, ffi::METH_FASTCALL, c""),
];

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    method::add(&module.py().get_type::<SemLock>(), &METHODS)
}
