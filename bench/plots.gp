# gnuplot -c plots.gp NAME DATA SVG - one of the three plots, by its name.
name = ARG1
data = ARG2
set terminal svg size 900,480 font "sans,13" background "white"
set output ARG3
set datafile separator "\t"
set grid
set autoscale noextend
set offsets 0, 0, graph 0.2, 0
set key top left

if (name eq "reads") {
    set title "cat of all pictures, seconds"
    set style data histograms
    set style fill solid 0.7
    set boxwidth 0.8
    set yrange [0:]
    set xtics rotate by -25 noenhanced
    unset key
    plot data using 2:xtic(1) linecolor rgb "#3070b0"
}
if (name eq "generations") {
    set multiplot layout 1,2
    set logscale xy
    set xlabel "generations"
    set format x "10^{%L}"
    set ylabel "ms (look-up: µs)"
    plot data using 1:2 with linespoints title "mount to first answer, ms", \
         data using 1:4 with linespoints title "ls -f, ms", \
         data using 1:5 with linespoints title "look-up of one id, µs"
    unset logscale y
    set yrange [0:]
    set ylabel "MiB"
    plot data using 1:3 with linespoints title "resident after the first answer", \
         data using 1:6 with linespoints title "resident after ls -f"
    unset multiplot
}
if (name eq "inflight") {
    set multiplot layout 1,2
    set logscale x
    set xlabel "generations in flight"
    set format x "10^{%L}"
    set yrange [0:]
    set ylabel "MiB"
    plot data using 1:2 with linespoints title "resident"
    set ylabel "% of one core"
    plot data using 1:3 with linespoints title "processor"
    unset multiplot
}
