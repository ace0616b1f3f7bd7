//! Functions, stored once for all workers.
//!
//! A function is pickled once for each call of `map` or `imap`, and once for good where its pickle is no more than its name;
//! the pickle lies in the session's memory, and each task names it by its handle. A worker reads it at the first task that
//! names it.
//!
//! ```text
//!  count:8 │ length:8 × count │ definitions │ pickle │ buffer │ buffer …
//! ```
//!
//! Definitions are there for functions of the main module, which may be defined anew while workers run: see
//! `polyproc._pool_functions`. What they rest on is looked at before the stored function is used again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::ManuallyDrop;

use polyproc_engine::Handle;
use polyproc_engine::shm::Memory;
use polyproc_engine::sys::fork;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyCFunction, PyDict, PyFunction, PyString, PyType};

use crate::errors;
use crate::pickling::{self, Export};

/// Hashes small numbers that no stranger chooses, by multiplication.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table looks at the lowest bits and at the highest.
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// How many functions are remembered, by a pool and by a worker.
const MOST: usize = 256;

type Guards = (Py<PyDict>, Vec<(Py<PyString>, Py<PyAny>)>);

/// A function in the session's memory. It stays there for as long as this lives.
pub struct Function {
    memory: ManuallyDrop<Memory>,
    born_in: i32,
    /// A mapping, and what some of its names must stand for, if this is to be good still.
    guards: Option<Guards>,
    /// The function itself, if its pickle names shared objects: it holds them.
    _holder: Option<Py<PyAny>>,
}

impl Function {
    /// Pickles `function`.
    ///
    /// # Errors
    /// What pickling raises, and `OSError` where there is no memory for it.
    pub fn store(function: &Bound<'_, PyAny>) -> PyResult<Function> {
        let py = function.py();
        let pickled = pickling::dumps(function)?;
        let described = py.import("polyproc._pool_functions")?.call_method1("describe", (function,))?;
        let (definitions, guards): (Vec<u8>, _) = match described.is_none() {
            true => (Vec::new(), None),
            false => described.extract().map(|(definitions, guards)| (definitions, Some(guards)))?,
        };
        let rest = std::iter::once(&pickled.body).chain(&pickled.buffers).map(Export::bytes);
        let parts: Vec<&[u8]> = std::iter::once(&definitions[..]).chain(rest).collect();
        let size = 8 + parts.len() * 8 + parts.iter().map(|part| part.len()).sum::<usize>();
        let holder = (!pickled.references.is_empty()).then(|| function.clone().unbind());
        let memory = Memory::uninitialised(size).map_err(errors::raise)?;
        memory.keep_to_ourselves();
        let mut at = 0;
        let mut write = |bytes: &[u8]| {
            // SAFETY: the memory has `size` bytes, which are the sum of what is written; nobody else knows of it yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().add(at), bytes.len()) };
            at += bytes.len();
        };
        write(&(parts.len() as u64).to_le_bytes());
        parts.iter().for_each(|part| write(&(part.len() as u64).to_le_bytes()));
        parts.iter().for_each(|part| write(part));
        Ok(Function { memory: ManuallyDrop::new(memory), born_in: fork::count(), guards, _holder: holder })
    }

    pub fn handle(&self) -> Handle {
        self.memory.handle()
    }

    /// What it rests on is as it was.
    fn is_good(&self, py: Python<'_>) -> bool {
        let Some((names, guards)) = &self.guards else { return true };
        let names = names.bind(py);
        guards.iter().all(|(name, value)| matches!(names.get_item(name.bind(py)), Ok(Some(now)) if now.is(value)))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // A forked child does not hold it.
        if self.born_in == fork::count() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// The functions that a pool has stored for good.
#[derive(Default)]
pub struct Stored {
    functions: HashMap<usize, (Py<PyAny>, std::sync::Arc<Function>), BuildHasherDefault<Spread>>,
}

impl Stored {
    /// The function, stored now or before; None for what has to be pickled anew for every call, since its pickle is more
    /// than a name: bound methods, partial objects, closures.
    pub fn get(&mut self, function: &Bound<'_, PyAny>) -> Option<std::sync::Arc<Function>> {
        let (_, stored) = self.functions.get(&(function.as_ptr() as usize))?;
        stored.is_good(function.py()).then(|| std::sync::Arc::clone(stored))
    }

    /// Remembers a function; gives back what is forgotten for that, to be dropped where Python may run.
    #[must_use]
    pub fn put(&mut self, function: &Bound<'_, PyAny>, stored: std::sync::Arc<Function>) -> Stored {
        let mut old = if self.functions.len() >= MOST { std::mem::take(self) } else { Stored::default() };
        let key = function.as_ptr() as usize;
        if let Some(outdated) = self.functions.insert(key, (function.clone().unbind(), stored)) {
            old.functions.insert(key, outdated);
        }
        old
    }
}

/// True if plain pickle writes no more than the function's name, so that the same object has the same pickle for ever.
pub fn is_named(function: &Bound<'_, PyAny>) -> bool {
    let py = function.py();
    if function.is_exact_instance_of::<PyFunction>() {
        let found = || -> PyResult<bool> {
            let module = function.getattr("__module__")?;
            let name: String = function.getattr("__qualname__")?.extract()?;
            let modules = py.import("sys")?.getattr("modules")?;
            let mut place = modules.get_item(module)?;
            for part in name.split('.') {
                place = place.getattr(part)?;
            }
            Ok(place.is(function))
        };
        return found().unwrap_or(false);
    }
    if function.is_exact_instance_of::<PyCFunction>() {
        // One of a module, not a bound method of an object.
        return function
            .getattr("__self__")
            .is_ok_and(|owner| owner.is_none() || owner.is_instance_of::<pyo3::types::PyModule>());
    }
    function.is_exact_instance_of::<PyType>()
}

/// The functions that a worker knows.
#[derive(Default)]
pub struct Known {
    functions: HashMap<(u32, u32), Py<PyAny>, BuildHasherDefault<Spread>>,
}

impl Known {
    /// The function behind a handle.
    ///
    /// # Errors
    /// What unpickling raises.
    pub fn get<'py>(&mut self, py: Python<'py>, handle: Handle) -> PyResult<Bound<'py, PyAny>> {
        if let Some(function) = self.functions.get(&(handle.cell, handle.generation)) {
            return Ok(function.bind(py).clone());
        }
        let memory = Memory::from_handle(handle).map_err(errors::raise)?;
        let function = read(py, &memory)?;
        if self.functions.len() >= MOST {
            self.functions.clear();
        }
        self.functions.insert((handle.cell, handle.generation), function.clone().unbind());
        Ok(function)
    }
}

fn read<'py>(py: Python<'py>, memory: &Memory) -> PyResult<Bound<'py, PyAny>> {
    let damaged = || PyValueError::new_err("a function does not parse: shared memory was overwritten");
    let mut bytes = Vec::with_capacity(memory.len());
    // SAFETY: the memory is mapped for its length; it is copied once, as bytes, and checked afterwards.
    unsafe {
        std::ptr::copy_nonoverlapping(memory.as_ptr(), bytes.as_mut_ptr(), memory.len());
        bytes.set_len(memory.len());
    }
    let bytes: Vec<u8> = bytes;
    let mut rest = bytes.as_slice();
    let mut number = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        usize::try_from(u64::from_le_bytes(*head)).ok()
    };
    let count = number().filter(|&count| count <= bytes.len() / 8).ok_or_else(damaged)?;
    let lengths = (0..count).map(|_| number()).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
    let mut parts = Vec::with_capacity(count);
    for length in lengths {
        let (part, tail) = rest.split_at_checked(length).ok_or_else(damaged)?;
        parts.push(part);
        rest = tail;
    }
    let [definitions, body, buffers @ ..] = &parts[..] else { return Err(damaged()) };
    let buffers: Vec<_> = buffers.iter().map(|buffer| PyByteArray::new(py, buffer).into_any()).collect();
    let body = PyBytes::new(py, body);
    if definitions.is_empty() {
        return pickling::loads(body.as_any(), buffers);
    }
    let definitions = PyBytes::new(py, definitions);
    py.import("polyproc._pool_functions")?.call_method1("load", (definitions, body, buffers))
}
