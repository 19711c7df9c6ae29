//! The rows with a comparison as an SVG chart: two bars a row, the longer one at full width.

use crate::report::{Report, Row, short};

const NAME_WIDTH: u32 = 230;
const BAR_WIDTH: u32 = 420;
const VALUE_WIDTH: u32 = 130;
const ROW_HEIGHT: u32 = 34;
const HEAD: u32 = 64;

/// The chart, with text for readers without colours.
pub(crate) fn svg(report: &Report) -> String {
    let rows: Vec<(&Row, f64)> = report
        .rows()
        .iter()
        .filter_map(|row| Some((row, row.other()?)))
        .collect();
    let width = NAME_WIDTH + BAR_WIDTH + VALUE_WIDTH;
    let height = HEAD + ROW_HEIGHT * u32::try_from(rows.len()).unwrap();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, 8, 20, "start", &report.title());
    bar(&mut svg, (8, 32), 12, "#1f6feb");
    text(&mut svg, 24, 42, "start", "bao-kms-provider");
    bar(&mut svg, (150, 32), 12, "#8c959f");
    text(&mut svg, 166, 42, "start", "compared with");
    for ((row, other), line) in rows.into_iter().zip(0..) {
        let top = HEAD + ROW_HEIGHT * line;
        let (name, unit) = row.name_and_unit();
        text(&mut svg, NAME_WIDTH - 8, top + 18, "end", name);
        let longest = row.value().max(other);
        for (value, offset, colour) in [(row.value(), 2, "#1f6feb"), (other, 16, "#8c959f")] {
            let width = length(value / longest);
            bar(&mut svg, (NAME_WIDTH, top + offset), width, colour);
            let label = format!("{} {unit}", short(value));
            text(
                &mut svg,
                NAME_WIDTH + width + 6,
                top + offset + 10,
                "start",
                &label,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Length of a bar for a share from 0 to 1, in whole units and visible.
fn length(share: f64) -> u32 {
    let steps = (1..=BAR_WIDTH).rfind(|step| f64::from(*step) <= share * f64::from(BAR_WIDTH));
    steps.unwrap_or(1)
}

fn bar(svg: &mut String, (x, y): (u32, u32), width: u32, colour: &str) {
    svg.push_str(&format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"12\" fill=\"{colour}\"/>\n"
    ));
}

fn text(svg: &mut String, x: u32, y: u32, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    svg.push_str(&format!(
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>\n"
    ));
}
