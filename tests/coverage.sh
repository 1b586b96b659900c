#!/bin/sh
# Reads what the tests counted (make coverage) and holds it against what is asked: every branch of the
# files where money is decided, and LEAST percent of the lines of all others together.
build=${1:-build/coverage}
LEAST=85
# The submission path: intent, send, answer, recovery; and the record of money.
money="src/engine/judge.c src/engine/submit.c src/engine/answer.c src/engine/life.c
	src/net/post.c src/net/api.c src/catalogue/charge.c"

lcov --quiet --capture --rc lcov_branch_coverage=1 --directory "$build" --base-directory . \
	--no-external --output-file "$build/all.info" || exit 1
lcov --quiet --rc lcov_branch_coverage=1 --extract "$build/all.info" "$PWD/src/*" \
	--output-file "$build/src.info" || exit 1

awk -v root="$PWD/" -v money="$money" -v least=$LEAST '
BEGIN { split(money, names); for (i in names) is_money[names[i]] = 1 }
function percent(hit, all) { return all ? 100 * hit / all : 100 }
/^SF:/ { file = substr($0, 4); sub(root, "", file); folder = file; sub(/\/[^\/]*$/, "", folder) }
/^DA:/ {
	split(substr($0, 4), f, ",")
	lines[folder]++; file_lines[file]++
	if (f[2] > 0) { hit[folder]++; file_hit[file]++ }
}
/^BRDA:/ {
	split(substr($0, 6), f, ",")
	branches[folder]++; file_branches[file]++
	if (f[4] != "-" && f[4] > 0) { taken[folder]++; file_taken[file]++ }
	else missed[file] = missed[file] " " f[1]
}
END {
	printf "%-28s %15s %17s\n", "", "lines", "branches"
	for (d in lines) {
		printf "%-28s %5d/%-5d %4.1f %% %5d/%-5d %4.1f %%\n", d, hit[d], lines[d],
			percent(hit[d], lines[d]), taken[d], branches[d],
			percent(taken[d], branches[d]) | "sort"
	}
	close("sort")
	print "the path of the money:"
	for (i in names) {
		m = names[i]
		if (!(m in file_lines)) { print m ": nothing was counted"; bad = 1; continue }
		printf "%-28s %5d/%-5d %4.1f %% %5d/%-5d %4.1f %%\n", m, file_hit[m], file_lines[m],
			percent(file_hit[m], file_lines[m]), file_taken[m], file_branches[m],
			percent(file_taken[m], file_branches[m])
		if (file_taken[m] < file_branches[m] || file_hit[m] < file_lines[m]) {
			print m ": branches not covered in lines" missed[m]
			bad = 1
		}
	}
	for (m in file_lines)
		if (!(m in is_money)) { all += file_lines[m]; got += file_hit[m] }
	printf "all others: %d of %d lines, %.1f %%\n", got, all, percent(got, all)
	if (percent(got, all) < least) { print "less than " least " % of lines"; bad = 1 }
	exit bad
}' "$build/src.info"
