//! Objects that one process owns, and others call.

mod owner;

pub use owner::{Make, Method};

use crate::process::Process;
use crate::start::kind;
use crate::task::{Place, Sent};
use crate::wire;
use crate::{Identity, Result, TaskError};
use owner::{CALL, On, Own, Requests, STOP};
use polyproc_engine::channel::{Parcel, Queue};
use polyproc_engine::{Deadline, Error as EngineError, Handle, Participant, shm};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// An object in a process of its own, which alone has it; every process that has a handle calls it, one call at a time.
///
/// For what cannot lie in shared memory, or must not lie in yours: a map of strings, a connection, a C library with global
/// state. It need not be `Send`, nor serialisable if it is [made there](Manager::start_with).
///
/// [`Manager::handle`] gives handles for other processes. Dropping the manager ends the process, once the calls that were made
/// before are answered; calls after that fail. If the process dies, every call that waits for it, and every one after, fails at
/// once.
///
/// # Examples
/// ```
/// use polyproc::{Managed, Manager, Process};
/// use std::collections::BTreeMap;
///
/// type Ages = BTreeMap<String, u32>;
///
/// fn grow_older(ages: Managed<Ages>, name: String) -> u32 {
///     ages.call(|ages: &mut Ages, name: String| {
///         let age = ages.entry(name).or_default();
///         *age += 1;
///         *age
///     }, (name,)).unwrap()
/// }
///
/// let ages = Manager::start(Ages::from([("Ada".to_owned(), 36)]))?;
/// let child = Process::spawn(grow_older, (ages.handle(), "Ada".to_owned()))?;
/// assert_eq!(child.join().unwrap(), 37);
/// assert_eq!(ages.call(|ages: &mut Ages| ages.len(), ()).unwrap(), 1);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Manager<T> {
    process: Mutex<Process<()>>,
    handle: Managed<T>,
}

/// A handle of an object that a [`Manager`]'s process owns.
///
/// # Examples
/// ```
/// use polyproc::Manager;
/// use polyproc::Managed;
/// let list = Manager::start(vec![1, 2])?;
/// let handle: Managed<Vec<i32>> = list.handle();
/// assert_eq!(handle.call(Vec::pop, ()).unwrap(), Some(2));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Managed<T> {
    requests: Queue,
    owner: Participant,
    identity: Identity,
    /// Queues for answers that no call uses now.
    replies: Mutex<Vec<Queue>>,
    object: PhantomData<fn(&mut T)>,
}

impl<T: Sent + 'static> Manager<T> {
    /// Starts a process that owns `object` from then on.
    ///
    /// # Errors
    /// As [`Process::spawn`](crate::Process::spawn).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Manager;
    /// let total = Manager::start(5u32)?;
    /// assert_eq!(total.call(|total: &mut u32| *total, ()).unwrap(), 5);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn start(object: T) -> Result<Manager<T>> {
        Manager::start_with(|object: T| object, (object,))
    }
}

impl<T: 'static> Manager<T> {
    /// Starts a process that makes its object itself, of arguments that are sent there: for what cannot be sent.
    ///
    /// # Errors
    /// As [`Process::spawn`](crate::Process::spawn).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Manager;
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let counter = Manager::start_with(|from: u32| Rc::new(Cell::new(from)), (5,))?;
    /// let next = |counter: &mut Rc<Cell<u32>>, step: u32| {
    ///     counter.set(counter.get() + step);
    ///     counter.get()
    /// };
    /// assert_eq!(counter.call(next, (1,)).unwrap(), 6);
    /// assert_eq!(counter.call(next, (4,)).unwrap(), 10);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn start_with<F, A>(make: F, arguments: A) -> Result<Manager<T>>
    where
        F: Make<A, Object = T>,
        A: Sent,
    {
        let _ = make;
        let requests = Queue::new(0)?;
        let mut owner = Participant::NOBODY;
        let task = Own::<F>::new();
        let name = format!("manager of {}", type_name::<T>().rsplit("::").next().unwrap_or("an object"));
        let builder = Process::builder().name(name);
        let process = builder.spawn_with(task, (arguments, Requests(requests.clone())), |it| owner = it, None)?;
        let identity = process.identity();
        let handle = Managed { requests, owner, identity, replies: Mutex::default(), object: PhantomData };
        Ok(Manager { process: Mutex::new(process), handle })
    }

    /// A handle of the object, for another process, or another part of this one.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Managed, Manager, Process};
    /// let total = Manager::start(5u32)?;
    /// let task = |total: Managed<u32>| total.call(|total: &mut u32| *total, ()).unwrap();
    /// assert_eq!(Process::spawn(task, (total.handle(),))?.join().unwrap(), 5);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn handle(&self) -> Managed<T> {
        self.handle.clone()
    }

    /// Calls a function on the object, and waits for its result: see [`Managed::call`].
    ///
    /// # Errors
    /// As [`Managed::call`]; if the process has died, how.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Manager, TaskError};
    /// let list = Manager::start(vec![1])?;
    /// list.call(|list: &mut Vec<u32>, item: u32| list.push(item), (2,)).unwrap();
    /// assert_eq!(list.call(|list: &mut Vec<u32>| list.clone(), ()).unwrap(), [1, 2]);
    /// let crash = |_: &mut Vec<u32>| -> u32 { std::process::abort() };
    /// assert!(matches!(list.call(crash, ()), Err(TaskError::Crashed { signal: 6, .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call<F, A>(&self, method: F, arguments: A) -> Result<F::Output, TaskError>
    where
        F: Method<T, A>,
        F::Output: Sent,
        A: Sent,
    {
        self.handle.call(method, arguments).map_err(|error| self.explain(error))
    }

    /// As [`Manager::call`], waiting no longer than `timeout`: see [`Managed::call_timeout`].
    ///
    /// # Errors
    /// As [`Manager::call`], and [`TaskError::TimedOut`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Manager;
    /// let list = Manager::start(vec![1, 2])?;
    /// let time = std::time::Duration::from_secs(10);
    /// assert_eq!(list.call_timeout(|list: &mut Vec<i32>| list.len(), (), time).unwrap(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call_timeout<F, A>(&self, method: F, arguments: A, timeout: Duration) -> Result<F::Output, TaskError>
    where
        F: Method<T, A>,
        F::Output: Sent,
        A: Sent,
    {
        self.handle.call_timeout(method, arguments, timeout).map_err(|error| self.explain(error))
    }

    /// How the process died, which only the one that has started it knows.
    fn explain(&self, error: TaskError) -> TaskError {
        if !matches!(error, TaskError::Lost { .. }) {
            return error;
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.join_timeout(Duration::from_secs(1)) {
            Ok(()) | Err(TaskError::Lost { .. } | TaskError::TimedOut { .. }) => error,
            Err(ended) => ended,
        }
    }

    /// Ends the process once the calls that were made before are answered, and waits for it.
    ///
    /// # Errors
    /// How it ended otherwise.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Manager, TaskError};
    /// let total = Manager::start(5u32)?;
    /// let handle = total.handle();
    /// total.stop().unwrap();
    /// assert!(matches!(handle.call(|total: &mut u32| *total, ()), Err(TaskError::Lost { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn stop(self) -> Result<(), TaskError> {
        self.handle.tell_to_stop();
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.join_timeout(Duration::MAX)
    }

    /// Ends the process at once, whatever it is doing: sends SIGKILL. Every call that waits for it fails, and every one after.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the system refuses.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Manager, TaskError};
    /// use std::time::Duration;
    ///
    /// fn hang(_: &mut u32) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// let object = Manager::start(0)?;
    /// let outcome = object.call_timeout(hang, (), Duration::from_millis(10));
    /// assert!(matches!(outcome, Err(TaskError::TimedOut { .. })));
    /// object.kill()?;
    /// assert!(matches!(object.call(hang, ()), Err(TaskError::Crashed { signal: 9, .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn kill(&self) -> Result<()> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).kill()
    }

    /// The pid of the process that owns the object.
    ///
    /// # Examples
    /// ```
    /// let total = polyproc::Manager::start(5u32)?;
    /// let pid = total.call(|_: &mut u32| std::process::id() as i32, ()).unwrap();
    /// assert_eq!(pid, total.pid());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn pid(&self) -> i32 {
        self.handle.identity.pid
    }
}

impl<T> Drop for Manager<T> {
    fn drop(&mut self) {
        self.handle.tell_to_stop();
    }
}

impl<T: 'static> Managed<T> {
    /// Calls a function on the object, in the process that owns it, and waits for its result. Calls are made one after the other,
    /// in the order in which they come; a function must not call the object that it is called on.
    ///
    /// # Errors
    /// [`TaskError::Panicked`] if the function panicked: the object is as the panic has left it, and can be called again;
    /// [`TaskError::Codec`] if arguments or result cannot be sent; [`TaskError::Lost`] if the process has ended.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Manager;
    /// let list = Manager::start(vec![1, 2])?;
    /// let handle = list.handle();
    /// assert_eq!(handle.call(Vec::pop, ()).unwrap(), Some(2));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call<F, A>(&self, method: F, arguments: A) -> Result<F::Output, TaskError>
    where
        F: Method<T, A>,
        F::Output: Sent,
        A: Sent,
    {
        let _ = method;
        self.call_by::<F, A>(&arguments, Deadline::Never, Duration::MAX)
    }

    /// As [`Managed::call`], waiting no longer than `timeout`. A call that is too late may still be made.
    ///
    /// # Errors
    /// As [`Managed::call`], and [`TaskError::TimedOut`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Manager;
    /// let list = Manager::start(vec![1, 2])?;
    /// let time = std::time::Duration::from_secs(10);
    /// assert_eq!(list.handle().call_timeout(Vec::pop, (), time).unwrap(), Some(2));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call_timeout<F, A>(&self, method: F, arguments: A, timeout: Duration) -> Result<F::Output, TaskError>
    where
        F: Method<T, A>,
        F::Output: Sent,
        A: Sent,
    {
        let _ = method;
        self.call_by::<F, A>(&arguments, wire::within(timeout), timeout)
    }

    fn call_by<F, A>(&self, arguments: &A, deadline: Deadline, after: Duration) -> Result<F::Output, TaskError>
    where
        F: Method<T, A>,
        F::Output: Sent,
        A: Sent,
    {
        let process = || self.identity.clone();
        let refused = |detail: String| TaskError::Codec { process: process(), detail };
        let lost = || TaskError::Lost { process: process(), detail: "it has ended".to_owned() };
        if shm::is_dead(self.owner) {
            return Err(lost());
        }
        let kept = self.replies.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let replies = match kept.map_or_else(|| Queue::new(0), Ok) {
            Ok(replies) => replies,
            Err(error) => return Err(refused(error.to_string())),
        };
        // So that its end wakes us.
        replies.hold().share_with(self.owner);
        let sent = Place::of::<On<T, F>, A>().and_then(|place| {
            let (head, _) = wire::encode(&(replies.hold().handle().to_bytes(), place), Vec::new())?;
            let (mut bytes, mut luggage) = wire::encode(arguments, head)?;
            wire::leave_descriptors(&mut bytes, &mut luggage)?;
            let handles = luggage.handles();
            let mut parcel = wire::parcel(CALL, &bytes, &mut luggage, &handles)?;
            Ok(wire::again(|| self.requests.put(&mut parcel, Deadline::Never))?)
        });
        sent.map_err(|error| refused(error.to_string()))?;
        wire::with_envelope(|envelope| {
            match wire::by(deadline, |deadline| replies.get_from(self.owner, envelope, deadline)) {
                Ok(()) => {}
                // An answer may still come: the queue is of no use to another call.
                Err(EngineError::TimedOut) => return Err(TaskError::TimedOut { process: process(), after }),
                Err(EngineError::EndOfFile) => return Err(lost()),
                Err(error) => return Err(refused(error.to_string())),
            }
            self.replies.lock().unwrap_or_else(PoisonError::into_inner).push(replies);
            match envelope.kind {
                kind::RESULT => wire::open(envelope, Vec::new()).map_err(|error| refused(error.to_string())),
                kind::PANIC => match wire::open(envelope, Vec::new()) {
                    Ok((message, location)) => Err(TaskError::Panicked { process: process(), message, location }),
                    Err(error) => Err(refused(error.to_string())),
                },
                _ => Err(refused(String::from_utf8_lossy(&envelope.copy()).into_owned())),
            }
        })
    }
}

impl<T> Managed<T> {
    fn tell_to_stop(&self) {
        if let Ok(mut parcel) = Parcel::new(STOP, &[]) {
            let _ = wire::again(|| self.requests.put(&mut parcel, Deadline::Never));
        }
    }
}

impl<T> Clone for Managed<T> {
    fn clone(&self) -> Managed<T> {
        Managed {
            requests: self.requests.clone(),
            owner: self.owner,
            identity: self.identity.clone(),
            replies: Mutex::default(),
            object: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Managed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Managed").field(&self.identity).finish()
    }
}

impl<T> fmt::Debug for Manager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Manager").field(&self.handle.identity).finish()
    }
}

impl<T> Serialize for Managed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Identity { pid, name, .. } = &self.identity;
        (wire::Name(self.requests.hold()), self.owner.bits(), pid, name).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Managed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Managed<T>, D::Error> {
        let (requests, owner, pid, name) = <([u8; 16], u32, i32, String)>::deserialize(deserializer)?;
        let requests = Handle::from_bytes(&requests).and_then(Queue::from_handle);
        Ok(Managed {
            requests: requests.map_err(|error| wire::refuse(&error))?,
            owner: Participant::from_bits(owner),
            identity: Identity::new(pid, name),
            replies: Mutex::default(),
            object: PhantomData,
        })
    }
}
