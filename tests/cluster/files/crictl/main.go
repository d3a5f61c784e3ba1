// crictl speaks CRI to containerd: the part of the real one (which no package has) that kubeadm 1.20 calls, and what
// a person needs to look at a node. It is built against the CRI that Kubernetes brings.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

const usage = `usage: crictl [-r SOCKET] COMMAND
  info                 whether the runtime and its network are ready
  version              of the runtime
  pods [-q]            pods
  ps [-a] [-q]         containers
  images [-q]          images
  inspecti IMAGE       an image; fails if it is not there
  logs CONTAINER       what a container printed
  pull IMAGE
  stopp POD...         stop pods
  rmp [-f] POD...      remove pods
  stop CONTAINER...
  rm [-f] CONTAINER...
  rmi IMAGE...`

const (
	configFile    = "/etc/crictl.yaml"
	defaultSocket = "unix:///run/containerd/containerd.sock"
	// As long as kubelet waits for a pod's network to go; a pull waits for its registry.
	deadline = 4 * time.Minute
)

type client struct {
	context context.Context
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	quiet   bool
	all     bool
	force   bool
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	socket, command, flags, names, err := parse(words)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	dial, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	connection, err := grpc.DialContext(dial, socket, grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return fmt.Errorf("no answer on %s: %v", socket, err)
	}
	defer connection.Close()
	c := &client{context: ctx, runtime: cri.NewRuntimeServiceClient(connection),
		images: cri.NewImageServiceClient(connection), quiet: flags["-q"], all: flags["-a"], force: flags["-f"]}
	return c.do(command, names)
}

// parse tells flags from names; a flag may stand anywhere, as in the real one.
func parse(words []string) (socket, command string, flags map[string]bool, names []string, err error) {
	socket, flags = configured(), map[string]bool{}
	for index := 0; index < len(words); index++ {
		switch word := words[index]; {
		case word == "-r" || word == "--runtime-endpoint":
			if index++; index == len(words) {
				return "", "", nil, nil, errors.New(word + " needs a socket\n" + usage)
			}
			socket = words[index]
		case word == "-q" || word == "-a" || word == "-f":
			flags[word] = true
		case word == "--quiet" || word == "--all" || word == "--force":
			flags[word[1:3]] = true
		case strings.HasPrefix(word, "-"):
			return "", "", nil, nil, errors.New("unknown option " + word + "\n" + usage)
		case command == "":
			command = word
		default:
			names = append(names, word)
		}
	}
	if command == "" {
		return "", "", nil, nil, errors.New(usage)
	}
	if strings.HasPrefix(socket, "/") {
		socket = "unix://" + socket
	}
	return socket, command, flags, names, nil
}

func configured() string {
	if socket := os.Getenv("CONTAINER_RUNTIME_ENDPOINT"); socket != "" {
		return socket
	}
	text, _ := os.ReadFile(configFile)
	for _, line := range strings.Split(string(text), "\n") {
		if value := strings.TrimPrefix(line, "runtime-endpoint:"); value != line {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return defaultSocket
}

func (c *client) do(command string, names []string) error {
	plain := map[string]func() error{
		"info": c.info, "version": c.version, "pods": c.pods, "ps": c.containers, "images": c.listImages,
	}
	if act, found := plain[command]; found {
		if len(names) > 0 {
			return fmt.Errorf("%s takes no %q\n%s", command, names[0], usage)
		}
		return act()
	}
	named := map[string]func(string) error{
		"inspecti": c.inspectImage, "logs": c.logs, "pull": c.pull, "stopp": c.stopPod, "rmp": c.removePod,
		"stop": c.stopContainer, "rm": c.removeContainer, "rmi": c.removeImage,
	}
	act, found := named[command]
	if !found || len(names) == 0 {
		return errors.New(usage)
	}
	var problems []string
	for _, name := range names {
		if err := act(name); err != nil {
			problems = append(problems, fmt.Sprintf("%s %s: %v", command, name, err))
		}
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

func show(value interface{}) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		fmt.Println(string(text))
	}
	return err
}

func (c *client) info() error {
	answer, err := c.runtime.Status(c.context, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	return show(answer)
}

func (c *client) version() error {
	answer, err := c.runtime.Version(c.context, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("RuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
		answer.RuntimeName, answer.RuntimeVersion, answer.RuntimeApiVersion)
	return nil
}

// table prints rows, or only their first column.
func (c *client) table(head []string, rows [][]string) error {
	if c.quiet {
		for _, row := range rows {
			fmt.Println(row[0])
		}
		return nil
	}
	writer := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintln(writer, strings.Join(row, "\t"))
	}
	return writer.Flush()
}

func (c *client) pods() error {
	answer, err := c.runtime.ListPodSandbox(c.context, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, pod := range answer.Items {
		state := strings.TrimPrefix(pod.State.String(), "SANDBOX_")
		rows = append(rows, []string{pod.Id, age(pod.CreatedAt), state, pod.Metadata.Name, pod.Metadata.Namespace})
	}
	return c.table([]string{"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE"}, rows)
}

func (c *client) containers() error {
	filter := &cri.ContainerFilter{}
	if !c.all {
		filter.State = &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	}
	answer, err := c.runtime.ListContainers(c.context, &cri.ListContainersRequest{Filter: filter})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, found := range answer.Containers {
		state := strings.TrimPrefix(found.State.String(), "CONTAINER_")
		attempt := fmt.Sprint(found.Metadata.Attempt)
		rows = append(rows, []string{found.Id, age(found.CreatedAt), state, found.Metadata.Name, attempt,
			found.PodSandboxId, found.Labels["io.kubernetes.pod.name"]})
	}
	return c.table([]string{"CONTAINER", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD"}, rows)
}

func age(nanoseconds int64) string {
	return time.Since(time.Unix(0, nanoseconds)).Round(time.Second).String() + " ago"
}

func (c *client) listImages() error {
	answer, err := c.images.ListImages(c.context, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, image := range answer.Images {
		rows = append(rows, []string{image.Id, strings.Join(image.RepoTags, " "), fmt.Sprint(image.Size_)})
	}
	return c.table([]string{"IMAGE ID", "TAGS", "SIZE"}, rows)
}

func (c *client) inspectImage(name string) error {
	answer, err := c.images.ImageStatus(c.context, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return err
	}
	if answer.Image == nil {
		return errors.New("no such image")
	}
	return show(answer)
}

func (c *client) logs(name string) error {
	id, err := c.full(name)
	if err != nil {
		return err
	}
	answer, err := c.runtime.ContainerStatus(c.context, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	file, err := os.Open(answer.Status.LogPath)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(os.Stdout, file)
	return err
}

func (c *client) pull(name string) error {
	answer, err := c.images.PullImage(c.context, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return err
	}
	fmt.Println("Image is up to date for", answer.ImageRef)
	return nil
}

func (c *client) removeImage(name string) error {
	_, err := c.images.RemoveImage(c.context, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}})
	return err
}

func (c *client) stopPod(name string) error {
	_, err := c.runtime.StopPodSandbox(c.context, &cri.StopPodSandboxRequest{PodSandboxId: name})
	return err
}

func (c *client) removePod(name string) error {
	if c.force {
		if err := c.stopPod(name); err != nil {
			return err
		}
	}
	_, err := c.runtime.RemovePodSandbox(c.context, &cri.RemovePodSandboxRequest{PodSandboxId: name})
	return err
}

func (c *client) stopContainer(name string) error {
	id, err := c.full(name)
	if err != nil {
		return err
	}
	_, err = c.runtime.StopContainer(c.context, &cri.StopContainerRequest{ContainerId: id, Timeout: 10})
	return err
}

func (c *client) removeContainer(name string) error {
	id, err := c.full(name)
	if err != nil {
		return err
	}
	if c.force {
		if err := c.stopContainer(id); err != nil {
			return err
		}
	}
	_, err = c.runtime.RemoveContainer(c.context, &cri.RemoveContainerRequest{ContainerId: id})
	return err
}

// full returns the id of the container that a name, or the beginning of an id, stands for: the newest of a name.
func (c *client) full(name string) (string, error) {
	answer, err := c.runtime.ListContainers(c.context, &cri.ListContainersRequest{})
	if err != nil {
		return "", err
	}
	var newest *cri.Container
	for _, found := range answer.Containers {
		matches := strings.HasPrefix(found.Id, name) || found.Metadata.Name == name
		if matches && (newest == nil || found.CreatedAt > newest.CreatedAt) {
			newest = found
		}
	}
	if newest == nil {
		return "", errors.New("no such container")
	}
	return newest.Id, nil
}
