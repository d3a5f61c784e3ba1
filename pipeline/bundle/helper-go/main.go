// Command helper does for bundles what Python has no library for: it re-creates gzip streams byte for byte as the
// container tools' own libraries write them, and it reads zstd where Python cannot.
//
//	helper encode --name pgzip --level -1 --block 1048576 --header HEX <raw >gzip
//	helper unzstd <frame >raw
//	helper version
//
// Everything streams and memory is bounded. It ends with status 0 if all of its output was written, 1 if something
// failed, 2 if it was called wrongly; the reason is one line on standard error.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
)

const bufferSize = 1 << 20

// klauspost is the version of klauspost/compress, pgzip that of klauspost/pgzip; the build fills them in.
var klauspost, pgzipVersion = "unknown", "unknown"

// usageError is a call that cannot be meant; its status is 2.
type usageError struct{ error }

func usage(format string, words ...any) error { return usageError{fmt.Errorf(format, words...)} }

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "helper: %v\n", err)
		if _, ok := err.(usageError); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(arguments []string, in io.Reader, out io.Writer) error {
	if len(arguments) == 0 {
		return usage("say what to do: encode, unzstd or version")
	}
	buffered := bufio.NewWriterSize(out, bufferSize)
	var err error
	switch command := arguments[0]; command {
	case "encode":
		err = encodeCommand(arguments[1:], in, buffered)
	case "unzstd":
		err = unzstd(in, buffered)
	case "version":
		err = version(buffered)
	default:
		err = usage("%q is not encode, unzstd or version", command)
	}
	if err != nil {
		return err
	}
	return buffered.Flush()
}

func encodeCommand(arguments []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("encode", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	name := flags.String("name", "", "which library: pgzip, go-gzip or klauspost-gzip")
	level := flags.Int("level", -1, "its level")
	block := flags.Int("block", 0, "bytes of raw data in a block of pgzip")
	header := flags.String("header", "", "the gzip header, in hexadecimal digits")
	if err := flags.Parse(arguments); err != nil {
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usage("%q is too much", flags.Arg(0))
	}
	return encode(*name, *level, *block, *header, in, out)
}

// version prints what the gzip streams and this program are made with.
func version(out io.Writer) error {
	type encoder struct {
		Name    string `json:"name"`
		Library string `json:"library"`
		Version string `json:"version"`
	}
	encoders := []encoder{
		{"pgzip", "klauspost/pgzip", pgzipVersion + " with klauspost/compress " + klauspost},
		{"go-gzip", "compress/gzip", runtime.Version()},
		{"klauspost-gzip", "klauspost/compress", klauspost},
	}
	return json.NewEncoder(out).Encode(map[string]any{"go": runtime.Version(), "encoders": encoders})
}
