//! Pipes: two ends, and an end that knows when the other is gone.
//!
//! The end of a pipe can be an argument of a process, or of a task of a [pool](crate::pool), and be sent to a process that
//! already runs. Its socket travels beside a message through another pipe, and with the arguments of a process. Anywhere else,
//! through a [`Queue`](crate::Queue) say, it is kept by whoever has sent it until it is received, so that one has to live until
//! then; a process whose task is done waits for that, for a second.

use crate::wire;
use crate::{Error, Result};
use polyproc_engine::Deadline;
use polyproc_engine::channel::{Parcel, PipeEnd as Engine, Transport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One end of a [`duplex`] pipe: sends `S` and receives `R`.
///
/// # Examples
/// ```
/// use polyproc::{Process, pipe};
///
/// fn measure(caller: pipe::End<usize, String>) {
///     while let Ok(word) = caller.receive() {
///         caller.send(&word.len()).unwrap();
///     }
/// }
///
/// let (ours, theirs) = pipe::duplex()?;
/// let child = Process::spawn(measure, (theirs,))?;
/// ours.send(&"hello".to_owned())?;
/// assert_eq!(ours.receive()?, 5);
/// drop(ours);
/// child.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct End<S, R> {
    end: Line,
    types: PhantomData<fn(S) -> R>,
}

/// The end of a [`channel`] that sends.
///
/// # Examples
/// ```
/// use polyproc::{Process, pipe};
/// let (sender, receiver) = pipe::channel()?;
/// let child = Process::spawn(|sender: pipe::Sender<u32>| sender.send(&7).unwrap(), (sender,))?;
/// assert_eq!(receiver.receive()?, 7);
/// child.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Sender<T> {
    end: Line,
    types: PhantomData<fn(T)>,
}

/// The end of a [`channel`] that receives.
///
/// # Examples
/// ```
/// use polyproc::{Process, pipe};
/// let (sender, receiver) = pipe::channel()?;
/// let child = Process::spawn(|receiver: pipe::Receiver<u32>| receiver.receive().unwrap() + 1, (receiver,))?;
/// sender.send(&7)?;
/// assert_eq!(child.join().unwrap(), 8);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Receiver<T> {
    end: Line,
    types: PhantomData<fn() -> T>,
}

/// A pipe whose ends both send and receive.
///
/// When the process at the other end ends, however it does, what it has sent can still be received; then receiving gives
/// [`Error::EndOfFile`], and sending [`Error::BrokenPipe`].
///
/// # Errors
/// [`Error::Engine`] if there are no descriptors left.
///
/// # Examples
/// ```
/// use polyproc::{Error, Process, pipe};
///
/// fn shout(end: pipe::End<String, String>) {
///     while let Ok(text) = end.receive() {
///         end.send(&text.to_uppercase()).unwrap();
///     }
/// }
///
/// let (ours, theirs) = pipe::duplex()?;
/// let child = Process::spawn(shout, (theirs,))?;
/// ours.send(&"hello".to_owned())?;
/// assert_eq!(ours.receive()?, "HELLO");
/// child.kill()?;
/// assert!(matches!(ours.receive(), Err(Error::EndOfFile)));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub fn duplex<A, B>() -> Result<(End<A, B>, End<B, A>)> {
    let (first, second) = polyproc_engine::channel::pipe(true)?;
    Ok((End { end: Line::new(first), types: PhantomData }, End { end: Line::new(second), types: PhantomData }))
}

/// A pipe in one direction.
///
/// # Errors
/// As [`duplex`].
///
/// # Examples
/// ```
/// use polyproc::{Error, Process, pipe};
/// let (sender, receiver) = pipe::channel()?;
/// let child = Process::spawn(|sender: pipe::Sender<u32>| sender.send(&7).unwrap(), (sender,))?;
/// assert_eq!(receiver.receive()?, 7);
/// child.join().unwrap();
/// assert!(matches!(receiver.receive(), Err(Error::EndOfFile)));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub fn channel<T>() -> Result<(Sender<T>, Receiver<T>)> {
    let (reads, writes) = polyproc_engine::channel::pipe(false)?;
    Ok((Sender { end: Line::new(writes), types: PhantomData }, Receiver { end: Line::new(reads), types: PhantomData }))
}

/// An open file, socket, or whatever has a descriptor, on its way to another process: as an argument of a
/// [`Process`](crate::Process), through a pipe or a [`Queue`](crate::Queue), to or from a [`Pool`](crate::Pool). What arrives is
/// a descriptor of the same open file. On all ways but the first two the sender has to live until it is received.
///
/// # Examples
/// ```
/// use polyproc::{Process, pipe::Descriptor};
/// use std::io::{Read, Seek, Write};
///
/// fn write(file: Descriptor) -> bool {
///     std::fs::File::from(file.into_owned()).write_all(b"written by another process").is_ok()
/// }
///
/// # let path = std::env::temp_dir().join(format!("polyproc-doc-{}", std::process::id()));
/// # let open = || std::fs::File::options().read(true).write(true).create(true).open(&path);
/// let mut file = open()?;
/// # std::fs::remove_file(&path)?;
/// assert!(Process::spawn(write, (Descriptor::new(file.try_clone()?),))?.join().unwrap());
/// let mut text = String::new();
/// file.rewind()?;
/// file.read_to_string(&mut text)?;
/// assert_eq!(text, "written by another process");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Descriptor(OwnedFd);

impl Descriptor {
    /// The descriptor of a file, a socket, or the like.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Queue, pipe::Descriptor};
    /// let files = Queue::unbounded()?;
    /// let (reader, writer) = std::io::pipe()?;
    /// files.put(&Descriptor::new(writer))?;
    /// drop(files.get()?);
    /// # drop(reader);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(descriptor: impl Into<OwnedFd>) -> Descriptor {
        Descriptor(descriptor.into())
    }

    /// The descriptor, to be made into a file, a socket, or the like again.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Queue, pipe::Descriptor};
    /// use std::{fs::File, io::Write};
    /// let files = Queue::unbounded()?;
    /// let (reader, writer) = std::io::pipe()?;
    /// files.put(&Descriptor::new(writer))?;
    /// File::from(files.get()?.into_owned()).write_all(b"hello")?;
    /// # drop(reader);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_owned(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        match wire::pack_descriptor(self.0.try_clone().map_err(S::Error::custom)?) {
            Some(number) => number.serialize(serializer),
            None => Err(S::Error::custom("a descriptor travels only in the messages of polyproc")),
        }
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Descriptor, D::Error> {
        let number = u32::deserialize(deserializer)?;
        wire::unpack_descriptor(number).map(Descriptor).map_err(|missing| wire::refuse(&missing))
    }
}

/// An end without types.
struct Line {
    end: Engine,
    /// A message and its descriptors are sent, and received, together.
    sending: Mutex<()>,
    receiving: Mutex<()>,
}

impl Line {
    fn new(end: Engine) -> Line {
        Line { end, sending: Mutex::new(()), receiving: Mutex::new(()) }
    }

    fn send<T: Serialize + ?Sized>(&self, value: &T, deadline: Deadline) -> Result<()> {
        wire::with_bytes(|bytes| {
            let (bytes, mut luggage) = match wire::encode(value, bytes) {
                Ok(encoded) => encoded,
                Err(error) => return (Vec::new(), Err(error)),
            };
            if luggage.descriptors.len() >= usize::from(Parcel::MOST_KIND) {
                let detail = format!("it has more than {} descriptors", Parcel::MOST_KIND - 1);
                return (bytes, Err(Error::Encode { type_name: std::any::type_name::<T>(), detail }));
            }
            let handles = luggage.handles();
            let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            // The kind of a message is the number of descriptors that follow it.
            let count = luggage.descriptors.len() as u8;
            let outcome = wire::parcel(count, &bytes, &mut luggage, &handles).and_then(|mut parcel| {
                wire::by(deadline, |deadline| self.end.send(&mut parcel, deadline))?;
                luggage.descriptors.iter().try_for_each(|descriptor| self.end.send_descriptor(descriptor.as_fd()))
            });
            (bytes, outcome.map_err(Error::from))
        })
    }

    fn receive<T: DeserializeOwned>(&self, deadline: Deadline) -> Result<T> {
        wire::with_envelope(|envelope| {
            let _turn = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
            wire::by(deadline, |deadline| self.end.receive(envelope, deadline))?;
            let descriptors = (0..envelope.kind)
                .map(|_| wire::again(|| self.end.receive_descriptor(Deadline::Never)))
                .collect::<polyproc_engine::Result<Vec<_>>>()?;
            wire::open(envelope, descriptors)
        })
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let socket = self.end.socket().try_clone_to_owned().map_err(S::Error::custom)?;
        for hold in self.end.rings() {
            wire::pack_along(hold);
        }
        let number = wire::pack_descriptor(socket).unwrap_or(u32::MAX);
        (wire::Name(self.end.hold()), number).serialize(serializer)
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Line, D::Error> {
        let (name, number) = <([u8; 16], u32)>::deserialize(deserializer)?;
        let socket = wire::unpack_descriptor(number).map_err(|missing| wire::refuse::<D::Error>(&missing))?;
        polyproc_engine::Handle::from_bytes(&name)
            .and_then(|handle| Engine::from_transport(Transport { socket, handle }))
            .map(Line::new)
            .map_err(|error| wire::refuse(&error))
    }
}

macro_rules! sends {
    ($end:ident <$($parameter:ident),*>, $item:ident) => {
        impl<$($parameter),*> $end<$($parameter),*> where $item: Serialize {
            /// Sends a value, waiting if the receiver is far behind.
            ///
            /// # Errors
            /// [`Error::BrokenPipe`] if nobody has the other end; [`Error::Encode`].
            ///
            /// # Examples
            /// ```
            /// let (sender, receiver) = polyproc::pipe::channel()?;
            /// sender.send(&(1, "one".to_owned()))?;
            /// assert_eq!(receiver.receive()?, (1, "one".to_owned()));
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn send(&self, value: &$item) -> Result<()> {
                self.end.send(value, Deadline::Never)
            }

            /// As `send`, waiting no longer than `timeout`.
            ///
            /// # Errors
            /// [`Error::TimedOut`]; otherwise as `send`.
            ///
            /// # Examples
            /// ```
            /// use std::time::Duration;
            /// let (sender, receiver) = polyproc::pipe::channel()?;
            /// sender.send_timeout(&1, Duration::from_secs(5))?;
            /// assert_eq!(receiver.receive()?, 1);
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn send_timeout(&self, value: &$item, timeout: Duration) -> Result<()> {
                self.end.send(value, wire::within(timeout))
            }
        }
    };
}

macro_rules! receives {
    ($end:ident <$($parameter:ident),*>, $item:ident) => {
        impl<$($parameter),*> $end<$($parameter),*> where $item: DeserializeOwned {
            /// Receives a value, waiting for one.
            ///
            /// # Errors
            /// [`Error::EndOfFile`] if the other end is gone and all is received; [`Error::Decode`].
            ///
            /// # Examples
            /// ```
            /// use polyproc::{Error, pipe};
            /// let (sender, receiver) = pipe::channel()?;
            /// sender.send(&1)?;
            /// drop(sender);
            /// assert_eq!(receiver.receive()?, 1);
            /// assert!(matches!(receiver.receive(), Err(Error::EndOfFile)));
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn receive(&self) -> Result<$item> {
                self.end.receive(Deadline::Never)
            }

            /// Receives a value if there is one now.
            ///
            /// # Errors
            /// [`Error::TimedOut`] if there is none; otherwise as `receive`.
            ///
            /// # Examples
            /// ```
            /// use polyproc::{Error, pipe};
            /// let (sender, receiver) = pipe::channel()?;
            /// assert!(matches!(receiver.try_receive(), Err(Error::TimedOut)));
            /// sender.send(&1)?;
            /// assert_eq!(receiver.try_receive()?, 1);
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn try_receive(&self) -> Result<$item> {
                self.end.receive(Deadline::Now)
            }

            /// As `receive`, waiting no longer than `timeout`.
            ///
            /// # Errors
            /// [`Error::TimedOut`]; otherwise as `receive`.
            ///
            /// # Examples
            /// ```
            /// use polyproc::{Error, pipe};
            /// use std::time::Duration;
            /// let (_sender, receiver) = pipe::channel::<u32>()?;
            /// assert!(matches!(receiver.receive_timeout(Duration::from_millis(5)), Err(Error::TimedOut)));
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn receive_timeout(&self, timeout: Duration) -> Result<$item> {
                self.end.receive(wire::within(timeout))
            }

            /// True if there is something to receive, be it the end of file, within `timeout`.
            ///
            /// # Errors
            /// [`Error::Engine`] if the pipe is damaged.
            ///
            /// # Examples
            /// ```
            /// use std::time::Duration;
            /// let (sender, receiver) = polyproc::pipe::channel()?;
            /// assert!(!receiver.poll(Duration::ZERO)?);
            /// sender.send(&1)?;
            /// assert!(receiver.poll(Duration::from_secs(5))?);
            /// # Ok::<(), polyproc::Error>(())
            /// ```
            pub fn poll(&self, timeout: Duration) -> Result<bool> {
                let deadline = wire::within(timeout);
                Ok(wire::again(|| self.end.end.poll(deadline))?)
            }
        }

        impl<$($parameter),*> AsFd for $end<$($parameter),*> {
            /// A descriptor that is readable exactly while there is something to receive, or the other end is gone: for poll,
            /// epoll and the like.
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.end.end.fd();
                self.end.end.socket()
            }
        }

        impl<$($parameter),*> AsRawFd for $end<$($parameter),*> {
            /// As its `as_fd`.
            fn as_raw_fd(&self) -> RawFd {
                self.as_fd().as_raw_fd()
            }
        }
    };
}

macro_rules! travels {
    ($end:ident <$($parameter:ident),*>) => {
        impl<$($parameter),*> fmt::Debug for $end<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($end)).field(&self.end.end.hold().handle()).finish()
            }
        }

        impl<$($parameter),*> Serialize for $end<$($parameter),*> {
            fn serialize<Z: Serializer>(&self, serializer: Z) -> std::result::Result<Z::Ok, Z::Error> {
                self.end.serialize(serializer)
            }
        }

        impl<'de, $($parameter),*> Deserialize<'de> for $end<$($parameter),*> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                Ok($end { end: Line::deserialize(deserializer)?, types: PhantomData })
            }
        }
    };
}

sends!(End<S, R>, S);
sends!(Sender<T>, T);
receives!(End<S, R>, R);
receives!(Receiver<T>, T);
travels!(End<S, R>);
travels!(Sender<T>);
travels!(Receiver<T>);
