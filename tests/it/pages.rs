//! The pages in docs/ name tests that exist.

use std::path::Path;

/// Every `src/...rs: name` and `tests/...rs: name` of a page, with those that follow after commas
/// in the same cell: file and function.
fn tests_named_in(page: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for line in page.lines() {
        let mut file = String::new();
        for piece in line.split('`').skip(1).step_by(2) {
            if let Some((path, name)) = piece.split_once(".rs: ") {
                file = format!("{path}.rs");
                named.push((file.clone(), name.to_owned()));
            } else if piece.starts_with("src/") || piece.starts_with("tests/") {
                file.clear();
            } else if !file.is_empty() && piece.contains('_') && !piece.contains(' ') {
                named.push((file.clone(), piece.to_owned()));
            }
        }
    }
    named
}

#[test]
fn failures_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/failures.md")).unwrap();
    let named = tests_named_in(&page);
    assert!(60 < named.len(), "only {} tests are found", named.len());
    let mut faults = Vec::new();
    for (file, name) in named {
        let text = std::fs::read_to_string(root.join(&file)).unwrap_or_default();
        if !text.contains(&format!("fn {name}(")) {
            faults.push(format!("{file} has no `{name}`"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
