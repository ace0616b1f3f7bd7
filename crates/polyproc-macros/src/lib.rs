//! The attribute and the derives of the crate `polyproc`, which re-exports them: nobody needs this crate by itself.

use proc_macro::TokenStream;
use proc_macro2::{Ident, Span};
use quote::quote;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, ItemFn, parse_macro_input};

/// Forks the zygote before the body of `main`, so that processes start by fork, safely and fast, from then on; and asks
/// processes that still run to end when `main` returns.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    if !arguments.is_empty() {
        return refuse(function.sig.ident.span(), "#[polyproc::main] takes no arguments");
    }
    let signature = &function.sig;
    if let Some(word) = &signature.asyncness {
        return refuse(word.span(), "#[polyproc::main] comes before any runtime: put it on a `main` that is not async");
    }
    if !signature.inputs.is_empty() || !signature.generics.params.is_empty() {
        return refuse(signature.ident.span(), "#[polyproc::main] belongs on `main`, which takes no arguments");
    }
    let (attributes, visibility, name, output, body) =
        (&function.attrs, &function.vis, &signature.ident, &signature.output, &function.block);
    quote! {
        #(#attributes)*
        #visibility fn #name() #output {
            ::polyproc::run_main(|| #output #body)
        }
    }
    .into()
}

/// Says that a struct may lie in shared memory, having checked that it may: it is `#[repr(C)]` or `#[repr(transparent)]`, each
/// field may, and there is no padding.
#[proc_macro_derive(Plain)]
pub fn plain(item: TokenStream) -> TokenStream {
    checked(&parse_macro_input!(item as DeriveInput), "Plain", "bytes that are no value of it")
}

/// Says that several processes may use a struct at the same time, having checked that they may: it is `#[repr(C)]` or
/// `#[repr(transparent)]`, they may use each field, and there is no padding.
#[proc_macro_derive(SharedCell)]
pub fn shared_cell(item: TokenStream) -> TokenStream {
    checked(&parse_macro_input!(item as DeriveInput), "SharedCell", "parts that are not atomics")
}

/// The impl of such a trait for a struct whose fields all have it, laid out in a known way, without padding.
fn checked(item: &DeriveInput, name_of_trait: &str, why_no_enum: &str) -> TokenStream {
    let Data::Struct(data) = &item.data else {
        let message = format!("only a struct can be {name_of_trait}: an enum or a union has {why_no_enum}");
        return refuse(item.ident.span(), &message);
    };
    let laid_out = item.attrs.iter().filter(|attribute| attribute.path().is_ident("repr")).any(|attribute| {
        let mut found = false;
        let _ = attribute.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("C") || meta.path.is_ident("transparent");
            if meta.input.peek(syn::token::Paren) {
                let inner;
                syn::parenthesized!(inner in meta.input);
                let _: proc_macro2::TokenStream = inner.parse()?;
            }
            Ok(())
        });
        found
    });
    if !laid_out {
        let message =
            format!("a {name_of_trait} struct needs #[repr(C)]: otherwise its layout is the compiler's affair");
        return refuse(item.ident.span(), &message);
    }
    if !item.generics.params.is_empty() {
        return refuse(item.generics.span(), &format!("derive({name_of_trait}) knows no generic structs"));
    }
    let (name, path) = (&item.ident, Ident::new(name_of_trait, Span::call_site()));
    let types: Vec<_> = data.fields.iter().map(|field| &field.ty).collect();
    let padding = format!(
        "a {name_of_trait} struct has no padding: order its fields by size, or fill the gaps with fields of your own"
    );
    quote! {
        const _: () = {
            const fn every_field<T: ::polyproc::#path>() {}
            #(every_field::<#types>();)*
            assert!(
                ::core::mem::size_of::<#name>() == 0 #(+ ::core::mem::size_of::<#types>())*,
                #padding,
            );
        };
        // SAFETY: each field is one, and there is nothing between them, as checked above.
        unsafe impl ::polyproc::#path for #name {}
    }
    .into()
}

fn refuse(place: proc_macro2::Span, message: &str) -> TokenStream {
    Error::new(place, message).to_compile_error().into()
}
