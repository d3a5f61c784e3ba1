package main

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"runtime"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/pgzip"
)

// plainHeader is the length of a gzip header without optional fields (RFC 1952, 2.3): what each library writes here,
// as it is given no name, comment or extra field.
const plainHeader = 10

// encode writes the gzip stream that a library makes of in, with a header of ours in place of its own.
func encode(name string, level, block int, header string, in io.Reader, out io.Writer) error {
	head, err := hex.DecodeString(header)
	if err != nil || len(head) < plainHeader {
		return usage("%q is not a gzip header in hexadecimal digits", header)
	}
	if _, err = out.Write(head); err != nil {
		return err
	}
	compressor, err := compressorOf(name, level, block, &skipper{out, plainHeader})
	if err != nil {
		return usageError{err}
	}
	if _, err = io.CopyBuffer(onlyWriter{compressor}, in, make([]byte, bufferSize)); err != nil {
		return err
	}
	return compressor.Close()
}

// compressorOf returns a library's compressor; pgzip works on as many blocks at once as there are cores.
func compressorOf(name string, level, block int, out io.Writer) (io.WriteCloser, error) {
	switch name {
	case "go-gzip":
		return gzip.NewWriterLevel(out, level)
	case "klauspost-gzip":
		return kgzip.NewWriterLevel(out, level)
	case "pgzip":
		compressor, err := pgzip.NewWriterLevel(out, level)
		if err == nil {
			err = compressor.SetConcurrency(block, runtime.GOMAXPROCS(0))
		}
		return compressor, err
	}
	return nil, usage("%q is not pgzip, go-gzip or klauspost-gzip", name)
}

// skipper drops the first bytes that are written to it.
type skipper struct {
	out  io.Writer
	left int
}

func (s *skipper) Write(data []byte) (int, error) {
	dropped := s.left
	if dropped > len(data) {
		dropped = len(data)
	}
	s.left -= dropped
	if dropped == len(data) {
		return dropped, nil
	}
	written, err := s.out.Write(data[dropped:])
	return dropped + written, err
}

// onlyWriter hides everything else that a compressor can do, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }
