//! A value in shared memory that something else guards: a lock, or the fact that it is written once.

use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::shm::{Hold, Memory};
use polyproc_engine::{Error as EngineError, Handle};
use serde::{Deserializer, Serializer};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Before the data: the pid of a process that panicked while it could write it, or zero.
const HEAD: usize = 64;

/// The place of a `T`. Whoever uses it knows when it may be read, and when written.
pub(crate) struct Guarded<T: Plain> {
    memory: Arc<Memory>,
    data: PhantomData<T>,
}

impl<T: Plain> Guarded<T> {
    const OFFSET: usize = {
        assert!(align_of::<T>() <= 4096, "data in shared memory is aligned to at most 4096 bytes");
        if align_of::<T>() > HEAD { align_of::<T>() } else { HEAD }
    };

    /// A place of zeros, which are a value too.
    pub(crate) fn zeroed() -> Result<Guarded<T>> {
        let memory = Memory::allocate(Self::OFFSET + size_of::<T>())?;
        Ok(Guarded { memory: memory.into(), data: PhantomData })
    }

    /// A place with a value.
    pub(crate) fn new(value: T) -> Result<Guarded<T>> {
        let place = Guarded::<T>::zeroed()?;
        // SAFETY: the memory is large enough and aligned, and nobody else knows of it yet.
        unsafe { place.place().write(value) };
        Ok(place)
    }

    /// The place of a handle.
    fn from_handle(handle: Handle) -> polyproc_engine::Result<Guarded<T>> {
        let memory = Memory::from_handle(handle)?;
        if memory.len() != Self::OFFSET + size_of::<T>() {
            return Err(EngineError::Damaged { what: "lock", detail: "its data is of another size than its type" });
        }
        Ok(Guarded { memory: memory.into(), data: PhantomData })
    }

    /// Where the value lies: aligned, and any bytes there are a `T`.
    #[inline]
    pub(crate) fn place(&self) -> *mut T {
        // SAFETY: the memory has OFFSET + size_of::<T>() bytes, as `zeroed` asked for and `from_handle` has checked.
        unsafe { self.memory.as_ptr().add(Self::OFFSET).cast::<T>() }
    }

    #[inline]
    fn panicked(&self) -> &AtomicI32 {
        // SAFETY: the memory begins with HEAD bytes, of which the first four are only used as this atomic.
        unsafe { &*self.memory.as_ptr().cast::<AtomicI32>() }
    }

    /// If this thread panics, says so to whoever comes next. To be called before the value is given up.
    #[inline]
    pub(crate) fn note_panic(&self) {
        if std::thread::panicking() {
            self.panicked().store(std::process::id() as i32, Ordering::Relaxed);
        }
    }

    /// The pid of a process that panicked while it could write here, and whose news nobody has had.
    #[inline]
    pub(crate) fn panic_news(&self) -> Option<i32> {
        // ORDER: Relaxed: the lock orders it.
        let pid = self.panicked().load(Ordering::Relaxed);
        (pid != 0).then_some(pid)
    }

    /// The news was given.
    #[inline]
    pub(crate) fn clear_news(&self) {
        self.panicked().store(0, Ordering::Relaxed);
    }
}

impl<T: Plain> Clone for Guarded<T> {
    fn clone(&self) -> Guarded<T> {
        Guarded { memory: self.memory.clone(), data: PhantomData }
    }
}

/// Writes the names of the two objects that a guarded value consists of.
pub(crate) fn pack<T: Plain, S: Serializer>(guard: &Hold, data: &Guarded<T>, serializer: S) -> Result<S::Ok, S::Error> {
    wire::pack_two([guard, data.memory.hold()], serializer)
}

/// Reads the names, and takes hold of both.
pub(crate) fn unpack<'de, T: Plain, G, D: Deserializer<'de>>(
    deserializer: D,
    take: impl FnOnce(Handle) -> polyproc_engine::Result<G>,
) -> Result<(G, Guarded<T>), D::Error> {
    wire::unpack_two(deserializer, |guard, memory| Ok((take(guard)?, Guarded::from_handle(memory)?)))
}
