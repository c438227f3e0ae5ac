//! Names a source file for a person: short, and the same on every machine.

/// The short name of a path that the debug information holds: relative to the
/// workspace; `crate-1.2.3/src/..` for a crate of the registry; `core/src/..`
/// for Rust's own library. Others stay as they are.
pub(crate) fn short(path: &str, root: &str) -> String {
    let path = path.replace('\\', "/");
    let root = root.replace('\\', "/");
    if let Some(inside) = path.strip_prefix(&root).and_then(|rest| rest.strip_prefix('/')) {
        return inside.to_string();
    }
    if let Some((_, crates)) = path.split_once("/registry/src/")
        && let Some((_, file)) = crates.split_once('/')
    {
        return file.to_string();
    }
    let library = path
        .rsplit_once("/library/")
        // As it was built, or as it lies in a toolchain that has rust-src.
        .filter(|(front, _)| front.contains("/rustc/") || front.ends_with("/rustlib/src/rust"));
    match library {
        Some((_, file)) => without_detours(file),
        None => path,
    }
}

/// The path without any `folder/..` inside it.
fn without_detours(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            ".." if !names.is_empty() => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests;
