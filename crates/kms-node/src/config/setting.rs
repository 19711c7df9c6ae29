//! The declaration of a setting, and the macro for the table in [`super::settings`].

use std::marker::PhantomData;

use serde_json::Value;

/// A section of the file: its keys, and its place in the schema.
pub(super) struct Section {
    /// Such as `auth.jwt.`; empty for the file itself.
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) is_required: bool,
    /// Further keywords of its schema, for rules between its keys.
    pub(super) keywords: fn() -> Value,
    pub(super) settings: &'static [Declared],
}

/// One setting, as the schema, the reference page and the loader see it.
pub(super) struct Declared {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    /// `None` for a required setting; null where another setting decides.
    pub(super) default: Option<fn() -> Value>,
    /// The type column of the reference page.
    pub(super) kind: &'static str,
    pub(super) schema: fn() -> Value,
}

/// A setting and its type: `Status::probe_interval` is `status.probeInterval`.
pub(super) struct Key<R> {
    pub(super) declared: Declared,
    pub(super) rule: PhantomData<R>,
}

impl<R> From<Key<R>> for &'static str {
    fn from(key: Key<R>) -> Self {
        key.declared.path
    }
}

/// `struct NAME: PATH, required, KEYWORDS { ... }` declares a section and its values. A setting is
/// `field "key": RULE => TYPE = DEFAULT;`, and its doc comment is the text of schema and reference
/// page; without a type it has no field. `.. field: TYPE = FUNCTION;` is a field that the function
/// reads.
macro_rules! settings {
    ($(
        $(#[doc = $text:literal])+
        $(#[derive($($derive:ident),+)])?
        $vis:vis struct $section:ident: $path:literal, $need:ident $(, $keywords:tt)? {
            $(
                $(#[doc = $about:literal])+
                $field:ident $key:literal: $rule:ty $(=> $type:ty)? $(= $default:tt)?;
            )*
            $(.. $part:ident: $part_type:ty = $read:path;)*
        }
    )+) => {
        /// Every section of the file, in the order of the reference page; outer before inner.
        pub(super) const SECTIONS: &[Section] = &[$(Section {
            path: $path,
            text: concat!($($text),+),
            is_required: settings!(@$need),
            keywords: || settings!(@keywords $($keywords)?),
            settings: &[$($section::$field.declared),*],
        }),+];
        $(
            impl $section {
                $(#[expect(non_upper_case_globals, reason = "a key has the name of its field")]
                pub(super) const $field: Key<$rule> = Key {
                    declared: Declared {
                        path: concat!($path, $key),
                        text: concat!($($about),+),
                        default: settings!(@default $($default)?),
                        kind: <$rule as Rule>::KIND,
                        schema: <$rule as Rule>::schema,
                    },
                    rule: PhantomData,
                };)*
            }
            settings!(@struct $(#[doc = $text])+ $(#[derive($($derive),+)])? $vis $section
                { $(concat!($($about),+) => $field: ($($type)?),)* }
                { $($part: $part_type = $read,)* });
        )+
    };
    (@required) => { true };
    (@optional) => { false };
    (@keywords) => { json!({}) };
    (@keywords $keywords:tt) => { json!($keywords) };
    (@default) => { None };
    (@default $default:tt) => { Some(|| json!($default)) };
    (@struct $(#[$meta:meta])* $vis:vis $section:ident
        { $($about:expr => $field:ident: ($($type:ty)?),)* }
        { $($part:ident: $part_type:ty = $read:path,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $section {
            $($(#[doc = $about] $vis $field: $type,)?)*
            $($vis $part: $part_type,)*
        }

        impl $section {
            /// Reads every setting before it gives up, so that each problem is found.
            pub(super) fn read(resolver: &mut Resolver) -> Option<Self> {
                $(resolver.get(Self::$field);)*
                $(let $part = $read(resolver);)*
                Some(Self {
                    $($($field: { let value: $type = resolver.get(Self::$field)?; value },)?)*
                    $($part: $part?,)*
                })
            }
        }
    };
}

pub(super) use settings;
