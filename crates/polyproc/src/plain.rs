//! Types that may lie in memory which several processes write.

/// A type that may lie in shared memory: any bytes are a valid value, and it means the same in every process.
///
/// `Send` is not enough: a `Box`, a `&'static str` and a `fn()` are `Send` and mean nothing in another process. `Copy` is not
/// enough: a `bool` of value 2, written there by a process that went wrong, would be undefined behaviour here.
///
/// Derive it for a struct of such fields, which must be `#[repr(C)]` and have no padding:
///
/// ```
/// use polyproc::{Lock, Plain};
///
/// #[derive(Clone, Copy, Plain)]
/// #[repr(C)]
/// struct Account {
///     balance: i64,
///     transactions: u64,
/// }
///
/// let account = Lock::new(Account { balance: 0, transactions: 0 })?;
/// account.lock().unwrap().balance += 10;
/// # Ok::<(), polyproc::Error>(())
/// ```
///
/// What points somewhere is refused:
///
/// ```compile_fail
/// let text = polyproc::Lock::new(Box::new(1)).unwrap();
/// ```
///
/// # Safety
/// Every pattern of bytes must be a valid value; there is no padding, no pointer, reference, descriptor or other thing that
/// means something in one process only; nothing needs to be dropped.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in memory that several processes share",
    label = "not `Plain`",
    note = "integers, floats and arrays of them can; a `#[repr(C)]` struct of them can with `#[derive(polyproc::Plain)]`",
    note = "`bool`, `char` and enums have invalid bytes; `Box`, `Vec`, `String` and references point into one process"
)]
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($number:ty)*) => {
        // SAFETY: numbers: any bytes are a value.
        $(unsafe impl Plain for $number {})*
    };
}

plain!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

// SAFETY: nothing at all.
unsafe impl Plain for () {}
// SAFETY: elements lie side by side, without padding between them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The bytes of values.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a Plain value has no padding, so all its bytes are there to be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to be written.
pub(crate) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above; and any bytes are a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A value of zeros.
pub(crate) fn zeros<T: Plain>() -> T {
    // SAFETY: any bytes are a value, zeros among them.
    unsafe { std::mem::zeroed() }
}
