//! A flag to wait for.

use crate::Result;
use crate::wire;
use polyproc_engine::Deadline;
use polyproc_engine::channel;
use polyproc_engine::sync::Event as Engine;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A flag between processes that can be waited for.
///
/// # Examples
/// ```
/// use polyproc::{Event, Process};
/// let ready = Event::new()?;
/// let child = Process::spawn(|ready: Event| ready.set(), (ready.clone(),))?;
/// ready.wait();
/// child.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Event(Arc<Engine>);

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session has no room for another object.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// let event = Event::new()?;
    /// assert!(!event.is_set());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Result<Event> {
        Ok(Event(Engine::new()?.into()))
    }

    /// Sets it and wakes all who wait.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// let event = Event::new()?;
    /// event.set();
    /// event.wait(); // not for long
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn set(&self) {
        self.0.set();
        channel::event_changed(&self.0);
    }

    /// Clears it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// let event = Event::new()?;
    /// event.set();
    /// event.clear();
    /// assert!(!event.is_set());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn clear(&self) {
        self.0.clear();
        channel::event_changed(&self.0);
    }

    /// True if it is set.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// let event = Event::new()?;
    /// event.set();
    /// assert!(event.is_set());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Waits until it is set, be it that it was cleared again since.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// use polyproc::Process;
    /// let event = Event::new()?;
    /// let child = Process::spawn(|event: Event| event.wait(), (event.clone(),))?;
    /// event.set();
    /// child.join().unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait(&self) {
        while self.0.wait(Deadline::Never).is_err() {}
    }

    /// As [`Event::wait`], but no longer than `timeout`. True if it was set.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// let event = Event::new()?;
    /// assert!(!event.wait_timeout(std::time::Duration::from_millis(5)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let deadline = wire::within(timeout);
        wire::again(|| self.0.wait(deadline)).is_ok()
    }

    /// A descriptor that is readable while the event is set: for poll, epoll and the like, to wait for several things at once.
    /// It is made, with a thread that watches the event, when it is first asked for. An event that is set and cleared at once
    /// may not be noticed.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if there is no descriptor, or no thread, to be had.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Event;
    /// use std::os::fd::AsFd;
    /// let event = Event::new()?;
    /// let descriptor = event.descriptor()?;
    /// event.set();
    /// assert_eq!(polyproc::wait([&descriptor as &dyn AsFd], None)?, [0]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Ok(channel::event_bell(&self.0)?)
    }
}

impl AsFd for Event {
    /// As [`Event::descriptor`].
    ///
    /// # Panics
    /// If there is no descriptor, or no thread, to be had.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.descriptor() {
            Ok(descriptor) => descriptor,
            Err(error) => panic!("this event can have no descriptor: {error}"),
        }
    }
}

impl AsRawFd for Event {
    /// As [`Event::as_fd`].
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.0.hold(), serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Event, D::Error> {
        Ok(Event(wire::unpack(deserializer, Engine::from_handle)?.into()))
    }
}
