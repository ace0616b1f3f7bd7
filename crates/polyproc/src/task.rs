//! What a process can be asked to run: a function, or a closure that captures nothing, and its arguments.
//!
//! On the way a function is an address: of a piece of code that the compiler makes for exactly this function, these arguments
//! and this result. It is given as a distance from the base of the program, or, if it lies in a library, as it is, where the
//! zygote has the library at the same place.

use crate::wire::{self, Arrived, Luggage};
use crate::{Error, Result};
use polyproc_engine::process::zygote::{self, Way};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::any::type_name;

/// A function that another process can run with arguments `A`, a tuple.
///
/// It is implemented for functions and for closures that capture nothing, of up to six arguments, whose arguments and result
/// are [`serde`] values; there is nothing to implement by hand.
///
/// # Examples
/// ```
/// use polyproc::{Pool, Result, Task};
///
/// /// Any function of a number can be given to this.
/// fn of_seven<F: Task<(u32,)>>(pool: &Pool, function: F) -> Result<polyproc::pool::Ticket<F::Output>> {
///     pool.submit(function, (7,))
/// }
///
/// let pool = Pool::builder().workers(1).build()?;
/// assert_eq!(of_seven(&pool, |x| x * 6)?.join().unwrap(), 42);
/// assert!(!of_seven(&pool, u32::is_power_of_two)?.join().unwrap());
/// # Ok::<(), polyproc::Error>(())
/// ```
///
/// A closure that captures does not compile:
///
/// ```compile_fail
/// let factor = 3;
/// polyproc::Process::spawn(move |x: u32| x * factor, (2,)).unwrap();
/// ```
///
/// nor does what cannot cross to another process: a reference, an `Rc`, a raw pointer. (Of a reference the compiler says that
/// an "implementation of `Deserialize` is not general enough": it would have to borrow from a message that is gone when the
/// function runs. Take a `String` for a `&str`, a `Vec` for a slice.)
///
/// ```compile_fail
/// fn length(text: &'static str) -> usize { text.len() }
/// polyproc::Process::spawn(length, ("abc",)).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in another process with the arguments `{A}`",
    label = "not a function of these arguments, or an argument or the result cannot be sent",
    note = "it must be a function, or a closure that captures nothing; its arguments are given as a tuple, `(a,)` for one",
    note = "arguments and result must be `Serialize` and `DeserializeOwned`: no references, `Rc` or raw pointers"
)]
pub trait Task<A>: Copy + 'static {
    /// What it returns.
    type Output;

    #[doc(hidden)]
    fn run(arguments: &[u8], arrival: Arrival) -> Result<(Vec<u8>, Luggaged)>;
}

/// A value that can be sent to another process: any that serde can write and read again, with nothing borrowed in it. There is
/// nothing to implement by hand.
///
/// # Examples
/// ```
/// use polyproc::{Queue, Sent};
///
/// fn to_the_end<T: Sent>(queue: &Queue<T>) -> Vec<T> {
///     std::iter::from_fn(|| queue.try_get().ok()).collect()
/// }
///
/// let queue = Queue::unbounded()?;
/// queue.put(&(1, "one".to_owned()))?;
/// assert_eq!(to_the_end(&queue), [(1, "one".to_owned())]);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross to another process",
    label = "not `Serialize` and `DeserializeOwned`",
    note = "what crosses is sent as bytes: a type of yours can with `#[derive(serde::Serialize, serde::Deserialize)]`",
    note = "references, `Rc` and raw pointers mean nothing in another process: send what they point to, or share it in a \
            `polyproc::Lock`, a `Shared` value or a `SharedVec`"
)]
pub trait Sent: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Sent for T {}

/// What came beside the arguments.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arrival(pub(crate) Arrived);

/// Keeps what a result names until it is sent.
#[doc(hidden)]
#[derive(Debug)]
pub struct Luggaged(pub(crate) Luggage);

/// Makes the one value of a function's or closure's type.
pub(crate) fn only_value<F: Copy + 'static>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "this closure captures variables, or is a function pointer: another process cannot have them. Pass what it needs \
             as arguments"
        );
    }
    // SAFETY: a value of no bytes can be read anywhere; and one exists, since Process::spawn was given it, of which this is a
    // copy.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

macro_rules! task {
    ($($argument:ident)*) => {
        impl<Function, Output, $($argument),*> Task<($($argument,)*)> for Function
        where
            Function: Fn($($argument),*) -> Output + Copy + 'static,
            Output: Sent,
            $($argument: Sent,)*
        {
            type Output = Output;

            #[allow(non_snake_case, reason = "the arguments are named after their types")]
            fn run(arguments: &[u8], arrival: Arrival) -> Result<(Vec<u8>, Luggaged)> {
                let ($($argument,)*): ($($argument,)*) = wire::decode(arguments, arrival.0)?;
                let output = only_value::<Function>()($($argument),*);
                let (bytes, luggage) = wire::encode(&output, Vec::new())?;
                Ok((bytes, Luggaged(luggage)))
            }
        }
    };
}

task!();
task!(A1);
task!(A1 A2);
task!(A1 A2 A3);
task!(A1 A2 A3 A4);
task!(A1 A2 A3 A4 A5);
task!(A1 A2 A3 A4 A5 A6);

/// The code made for a task.
pub(crate) type Run = fn(&[u8], Arrival) -> Result<(Vec<u8>, Luggaged)>;

/// Where code lies, in words that mean the same in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// So far from the base of the program.
    Program(u64),
    /// At this address, in a library that was loaded before the zygote was forked.
    Library(u64),
}

impl Place {
    /// The place of a function's code.
    pub(crate) fn of<F: Task<A>, A>() -> Result<Place> {
        const { assert!(size_of::<F>() == 0, "this closure captures variables: pass what it needs as arguments") };
        let address = F::run as Run as usize;
        let way = zygote::way()?;
        let images = zygote::images();
        match images.iter().position(|image| image.has(address)) {
            Some(0) => Ok(Place::Program((address - images[0].base) as u64)),
            Some(_) if way == Way::Forked => Ok(Place::Library(address as u64)),
            Some(library) => {
                Err(Error::Unreachable { function: type_name::<F>(), place: images[library].name.clone() })
            }
            None => {
                Err(Error::Unreachable { function: type_name::<F>(), place: "a library that was loaded later".into() })
            }
        }
    }

    /// The code at this place, in the process that was asked to run it. `None` if no code is there.
    ///
    /// # Safety
    /// The place must come from [`Place::of`] in a process of the same build of the program.
    pub(crate) unsafe fn code(self) -> Option<Run> {
        let images = zygote::images();
        let (address, found) = match self {
            Place::Program(distance) => {
                let address = images.first()?.base.checked_add(distance as usize)?;
                (address, images[0].has(address))
            }
            // A zygote that was executed has its libraries elsewhere.
            Place::Library(_) if !matches!(zygote::way(), Ok(Way::Forked)) => return None,
            Place::Library(address) => (address as usize, images[1..].iter().any(|image| image.has(address as usize))),
        };
        // SAFETY: the caller says that this is the address of a Run; it lies in code.
        found.then(|| unsafe { std::mem::transmute::<usize, Run>(address) })
    }
}

/// What a process is called if nobody says: the function's path.
pub(crate) fn default_name<F>() -> String {
    let name = type_name::<F>();
    name.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(name).to_owned()
}
