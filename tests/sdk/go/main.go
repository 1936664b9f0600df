// An app on the Dapr SDK for Go, told what to do line by line (see tests/sdk/app.py).
//
//	sdk-app PORT JOB...
//
// It handles those jobs, and fails those called fail*.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

type command struct {
	Do       string `json:"do"`
	Name     string `json:"name"`
	Schedule string `json:"schedule"`
	Repeats  uint32 `json:"repeats"`
	DueTime  string `json:"due_time"`
	TTL      string `json:"ttl"`
	Data     []byte `json:"data"`
	TypeURL  string `json:"type_url"`
}

var speaking sync.Mutex

func say(line map[string]any) {
	text, err := json.Marshal(line)
	must(err)
	speaking.Lock()
	defer speaking.Unlock()
	os.Stdout.Write(append(text, '\n'))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func handle(_ context.Context, event *common.JobEvent) error {
	data := event.Data
	if data == nil {
		data = []byte{}
	}
	say(map[string]any{"trigger": event.JobType, "data": data})
	if strings.HasPrefix(event.JobType, "fail") {
		return errors.New("this job fails")
	}
	return nil
}

func carryOut(dapr client.Client, asked command) (any, error) {
	ctx := context.Background()
	switch asked.Do {
	case "schedule":
		job := &client.Job{Name: asked.Name, Schedule: asked.Schedule, Repeats: asked.Repeats, DueTime: asked.DueTime, TTL: asked.TTL}
		if asked.Data != nil {
			job.Data = &anypb.Any{TypeUrl: asked.TypeURL, Value: asked.Data}
		}
		return nil, dapr.ScheduleJobAlpha1(ctx, job)
	case "get":
		job, err := dapr.GetJobAlpha1(ctx, asked.Name)
		if err != nil {
			return nil, err
		}
		found := map[string]any{
			"name": job.Name, "schedule": job.Schedule, "repeats": job.Repeats, "due_time": job.DueTime, "ttl": job.TTL,
			"data": nil, "type_url": job.Data.GetTypeUrl(),
		}
		if job.Data != nil {
			found["data"] = job.Data.Value
		}
		return found, nil
	case "delete":
		return nil, dapr.DeleteJobAlpha1(ctx, asked.Name)
	}
	return nil, errors.New("unknown command " + asked.Do)
}

func main() {
	service, err := daprd.NewService("127.0.0.1:" + os.Args[1])
	must(err)
	for _, name := range os.Args[2:] {
		must(service.AddJobEventHandler(name, handle))
	}
	go func() { must(service.Start()) }()
	dapr, err := client.NewClient()
	must(err)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked command
		must(json.Unmarshal(lines.Bytes(), &asked))
		if done, err := carryOut(dapr, asked); err != nil {
			say(map[string]any{"error": err.Error()})
		} else {
			say(map[string]any{"done": done})
		}
	}
	must(lines.Err())
}
