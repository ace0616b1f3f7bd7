//! Objects under a lock: what `Value` and `Array` are made of. An access is one call, which takes the lock, reads or writes,
//! and gives the lock back.
//!
//! ```text
//! value.value ─▶ GuardedAttribute ─┐                ┌─▶ numbers in shared memory: read here
//! array[3] ───▶ GuardedArray ──────┴▶ lock, access ─┴─▶ everything else: asked of the ctypes object
//! ```
//!
//! A lock of polyproc's is taken without calling Python, any other through its `acquire` and `release`. What the ctypes object
//! does by itself (conversions, errors, slices of characters) is left to it: [`Cells`] knows only the plain cases.
//!
//! **Invariant:** whatever an access raises, the lock is as it was before.
//!
//! **When a participant dies** in an access, it died as holder of the lock: the next to come is warned. A number is written
//! by one store, so it is the old or the new one.

use std::ptr;
use std::sync::OnceLock;

use polyproc_engine::Deadline;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice, PyString, PyTuple};

use super::cells::Cells;
use super::entry;
use super::method::{self, Method, new_none, new_true};
use super::semlock::SemLock;

struct Inner {
    object: Py<PyAny>,
    lock: Py<PyAny>,
    /// The same lock, where it may be taken without asking Python.
    native: Option<Py<SemLock>>,
    cells: Option<Cells>,
}

/// Base of what polyproc.sharedctypes wraps around ctypes objects: an object, and its lock.
#[pyclass(module = "polyproc._polyproc", subclass, frozen)]
pub struct Guarded {
    inner: OnceLock<Inner>,
}

impl Guarded {
    #[inline]
    fn inner(&self) -> PyResult<&Inner> {
        self.inner
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("this object was not initialised: call super().__init__()"))
    }
}

/// Takes a lock of polyproc's.
#[inline]
fn take(py: Python<'_>, lock: &SemLock) -> PyResult<()> {
    if lock.take_free() { Ok(()) } else { lock.take(py, Deadline::Never, 1).map(drop) }
}

#[inline]
fn give(lock: &SemLock) -> PyResult<()> {
    if lock.give_taken() { Ok(()) } else { lock.give() }
}

/// The result of what was done under a lock, once that was given back. What was raised first counts.
#[inline]
fn settled<T>(result: PyResult<T>, given: PyResult<()>) -> PyResult<T> {
    let value = result?;
    given.map(|()| value)
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Guarded {
        Guarded { inner: OnceLock::new() }
    }

    /// Becomes the guard of `object`. `native` says that `lock` may be taken without calling its methods; `code` names the
    /// type of its numbers as the array module does, where it has nothing but numbers.
    #[pyo3(signature = (object, lock, native, code))]
    fn _guard(&self, object: Py<PyAny>, lock: Bound<'_, PyAny>, native: bool, code: Option<&str>) -> PyResult<()> {
        let cells = match code {
            Some(code) => Cells::of(object.bind(lock.py()), code)?,
            None => None,
        };
        let own = if native { Some(lock.cast::<SemLock>()?.clone().unbind()) } else { None };
        self.inner
            .set(Inner { object, lock: lock.unbind(), native: own, cells })
            .map_err(|_| PyRuntimeError::new_err("this object is initialised already"))
    }

    #[getter]
    fn _obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.inner()?.object.clone_ref(py))
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.inner()?.lock.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.get() else { return Ok(()) };
        visit.call(&inner.object)?;
        visit.call(&inner.lock)?;
        visit.call(&inner.native)
    }
}

/// What is guarded by `self`; an exception if nothing is yet.
///
/// # Safety
/// Attached, and `slf` is a live Guarded: CPython checks that before it calls a method descriptor.
#[inline]
unsafe fn inner_of<'a>(slf: *mut PyObject) -> Option<&'a Inner> {
    // SAFETY: see above. The object outlives the call, whose caller has a reference to it.
    let guarded = unsafe {
        let slf = Borrowed::from_ptr(Python::assume_attached(), slf).cast_unchecked::<Guarded>();
        &*ptr::from_ref(slf.get())
    };
    guarded.inner.get().or_else(|| {
        Python::attach(|py| guarded.inner().err().map(|error| error.restore(py)));
        None
    })
}

/// # Safety
/// Called by CPython, by the rules of METH_NOARGS.
unsafe extern "C" fn get_obj(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython's promise; attached, and the object lives as long as its guard.
    unsafe { inner_of(slf).map_or(ptr::null_mut(), |inner| ffi::Py_NewRef(inner.object.as_ptr())) }
}

/// # Safety
/// Called by CPython, by the rules of METH_NOARGS.
unsafe extern "C" fn get_lock(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { inner_of(slf).map_or(ptr::null_mut(), |inner| ffi::Py_NewRef(inner.lock.as_ptr())) }
}

/// # Safety
/// Called by CPython, by the rules of METH_NOARGS.
unsafe extern "C" fn enter(slf: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython's promise.
    let Some(inner) = (unsafe { inner_of(slf) }) else { return ptr::null_mut() };
    match &inner.native {
        Some(lock) if lock.get().take_free() => new_true(),
        Some(lock) => entry::enter_somehow(lock.get()),
        None => called(|py| inner.lock.bind(py).call_method0(intern!(py, "__enter__"))),
    }
}

/// # Safety
/// Called by CPython, by the rules of METH_FASTCALL.
unsafe extern "C" fn exit(slf: *mut PyObject, exception: *mut *mut PyObject, count: ffi::Py_ssize_t) -> *mut PyObject {
    // SAFETY: CPython's promise.
    let Some(inner) = (unsafe { inner_of(slf) }) else { return ptr::null_mut() };
    match &inner.native {
        Some(lock) if lock.get().give_taken() => new_none(),
        Some(lock) => entry::release_somehow(lock.get()),
        None => called(|py| {
            // SAFETY: as many live arguments as CPython says.
            let exception = (0..count.cast_unsigned()).map(|n| unsafe { Borrowed::from_ptr(py, *exception.add(n)) });
            let exception = PyTuple::new(py, exception.collect::<Vec<_>>())?;
            inner.lock.bind(py).call_method1(intern!(py, "__exit__"), exception)
        }),
    }
}

/// The result of a call of Python, as CPython's caller gets it.
fn called<'a>(call: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + 'a) -> *mut PyObject {
    Python::attach(|py| match call(py) {
        Ok(result) => result.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    })
}

static METHODS: [Method; 4] = [
    Method::new(
        c"get_obj",
        ffi::PyMethodDefPointer { PyCFunction: get_obj },
        ffi::METH_NOARGS,
        c"get_obj($self, /)\n--\n\nThe object without its lock.",
    ),
    Method::new(
        c"get_lock",
        ffi::PyMethodDefPointer { PyCFunction: get_lock },
        ffi::METH_NOARGS,
        c"get_lock($self, /)\n--\n\nThe lock.",
    ),
    Method::new(c"__enter__", ffi::PyMethodDefPointer { PyCFunction: enter }, ffi::METH_NOARGS, c""),
    Method::new(c"__exit__", ffi::PyMethodDefPointer { PyCFunctionFast: exit }, ffi::METH_FASTCALL, c""),
];

/// A property of the object, read and written under the lock of its wrapper.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct GuardedAttribute {
    name: Py<PyString>,
    /// It is the number itself, of an object that is one.
    is_value: bool,
}

impl GuardedAttribute {
    /// Does `act` with the object of `instance`, between its `acquire` and its `release`.
    fn between<'py, T>(
        instance: &Bound<'py, PyAny>,
        act: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        let py = instance.py();
        instance.call_method0(intern!(py, "acquire"))?;
        let result = instance.getattr(intern!(py, "_obj")).and_then(|object| act(&object));
        settled(result, instance.call_method0(intern!(py, "release")).map(drop))
    }

    /// What `instance` guards with a lock of polyproc's.
    #[inline]
    fn direct<'a>(instance: &'a Bound<'_, PyAny>) -> Option<(&'a SemLock, &'a Inner)> {
        let inner = instance.cast::<Guarded>().ok()?.get().inner.get()?;
        inner.native.as_ref().map(|lock| (lock.get(), inner))
    }
}

#[pymethods]
impl GuardedAttribute {
    #[new]
    fn new(name: Bound<'_, PyString>) -> PyResult<GuardedAttribute> {
        let is_value = name.to_str()? == "value";
        Ok(GuardedAttribute { name: name.unbind(), is_value })
    }

    fn __get__<'py>(
        slf: &Bound<'py, Self>,
        instance: Option<&Bound<'py, PyAny>>,
        _owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let Some(instance) = instance else { return Ok(slf.clone().into_any()) };
        let this = slf.get();
        let Some((lock, inner)) = Self::direct(instance) else {
            return Self::between(instance, |object| object.getattr(this.name.bind(py)));
        };
        take(py, lock)?;
        let result = match &inner.cells {
            Some(cells) if this.is_value && cells.is_one() => cells.get(py, 0),
            _ => inner.object.bind(py).getattr(this.name.bind(py)),
        };
        settled(result, give(lock))
    }

    fn __set__(slf: &Bound<'_, Self>, instance: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some((lock, inner)) = Self::direct(instance) else {
            return Self::between(instance, |object| object.setattr(this.name.bind(py), value));
        };
        take(py, lock)?;
        let result = match &inner.cells {
            Some(cells) if this.is_value && cells.is_one() && cells.set(0, value) => Ok(()),
            _ => inner.object.bind(py).setattr(this.name.bind(py), value),
        };
        settled(result, give(lock))
    }

    fn __delete__(slf: &Bound<'_, Self>, instance: &Bound<'_, PyAny>) -> PyResult<()> {
        let class = instance.get_type().name()?.to_string();
        let name = slf.get().name.bind(slf.py()).repr()?.to_string();
        Err(PyAttributeError::new_err(format!("property {name} of '{class}' object has no deleter")))
    }
}

/// Base of the arrays: items and slices under the lock.
#[pyclass(module = "polyproc._polyproc", extends = Guarded, subclass, frozen)]
pub struct GuardedArray;

impl GuardedArray {
    /// Does `act` with the array between `__enter__` and `__exit__`, or what is the same, under the lock.
    #[inline]
    fn within<'py, T>(
        slf: &Bound<'py, Self>,
        act: impl FnOnce(&Inner, &Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        let py = slf.py();
        let inner = slf.as_super().get().inner()?;
        let object = inner.object.bind(py);
        if let Some(lock) = &inner.native {
            take(py, lock.get())?;
            return settled(act(inner, object), give(lock.get()));
        }
        slf.call_method0(intern!(py, "__enter__"))?;
        let result = act(inner, object);
        let exit = intern!(py, "__exit__");
        let Err(error) = &result else {
            return settled(result, slf.call_method1(exit, (py.None(), py.None(), py.None())).map(drop));
        };
        let arguments = (error.get_type(py), error.value(py), error.traceback(py));
        slf.call_method1(exit, arguments)?;
        result
    }
}

#[pymethods]
impl GuardedArray {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<GuardedArray> {
        PyClassInitializer::from(Guarded { inner: OnceLock::new() }).add_subclass(GuardedArray)
    }

    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let inner = slf.as_super().get().inner()?;
        inner.cells.as_ref().map_or_else(|| inner.object.bind(slf.py()).len(), |cells| Ok(cells.len()))
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        Self::within(slf, |inner, object| {
            if let Some(cells) = &inner.cells {
                if let Some(place) = cells.place(index) {
                    return cells.get(py, place);
                }
                if let Ok(slice) = index.cast::<PySlice>() {
                    return cells.slice(slice);
                }
            }
            object.get_item(index)
        })
    }

    fn __setitem__(slf: &Bound<'_, Self>, index: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::within(slf, |inner, object| {
            if let Some(cells) = &inner.cells {
                let done = match cells.place(index) {
                    Some(place) => cells.set(place, value),
                    None => index.cast::<PySlice>().is_ok_and(|slice| cells.set_slice(slice, value)),
                };
                if done {
                    return Ok(());
                }
            }
            object.set_item(index, value)
        })
    }

    fn __delitem__(slf: &Bound<'_, Self>, _index: &Bound<'_, PyAny>) -> PyResult<()> {
        let class = slf.get_type().name()?.to_string();
        Err(PyTypeError::new_err(format!("'{class}' object doesn't support item deletion")))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Guarded>()?;
    method::add(&module.py().get_type::<Guarded>(), &METHODS)?;
    module.add_class::<GuardedAttribute>()?;
    module.add_class::<GuardedArray>()
}
